#include "cache/digest_file.h"

#include <algorithm>
#include <charconv>
#include <iterator>
#include <ranges>
#include <span>
#include <string_view>

#include "base/bytes.h"
#include "base/formatted.h"
#include "cache/digest.h"
#include "cache/temporary_file.h"
#include "platform/file.h"
#include "wire/stock.h"

namespace caravan::cache {
namespace {

constexpr std::string_view first_line = "caravan-digests 1";
constexpr std::string_view last_line = "end";
constexpr std::string_view part_mark = "rows ";
constexpr uint64_t max_file = 64 << 20;  // bytes; enough for about 500,000 tensors

// Empty on failure.
std::string read_whole(const std::filesystem::path & path) {
    const auto fd = platform::open_to_read(path, platform::Links::refuse_last);
    const auto stamp = fd ? FileStamp::of(fd->get()) : std::nullopt;
    if (!stamp || stamp->size > max_file) {
        return {};
    }
    std::string text(stamp->size, '\0');
    for (size_t done = 0; done < text.size();) {
        const auto got = platform::read_some(fd->get(), mutable_bytes(text.data() + done, text.size() - done));
        if (!got || *got == 0) {
            return {};
        }
        done += *got;
    }
    return text;
}

// Parses the words of a line. After the first malformed word, all_good() is false.
class Words {
public:
    explicit Words(std::string_view line) : rest_(line) {}

    template <class T>
    T number(int base = 10) {
        const std::string_view word = next();
        T value{};
        const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), value, base);
        good_ = good_ && error == std::errc() && end == word.data() + word.size();
        return value;
    }

    std::string digest() {
        const std::string_view word = next();
        good_ = good_ && is_digest_hex(word);
        return std::string(word);
    }

    // True if every word was well-formed and none is left.
    bool all_good() const { return good_ && at_end_; }

private:
    std::string_view next() {
        good_ = good_ && !at_end_;
        const size_t length = rest_.find(' ');
        const std::string_view word = rest_.substr(0, length);
        at_end_ = length == std::string_view::npos;
        rest_ = at_end_ ? std::string_view() : rest_.substr(length + 1);
        return word;
    }

    std::string_view rest_;
    bool good_ = true, at_end_ = false;
};

}  // namespace

std::optional<FileStamp> FileStamp::of(Descriptor file) {
    const auto status = platform::status_of(file);
    return status && status->is_regular ? std::optional(FileStamp{status->inode, status->size, status->modified_ns})
                                        : std::nullopt;
}

Result<Layout> open_digests(const std::filesystem::path & directory) {
    auto layout = make_root(directory);
    if (!layout) {
        return layout;
    }
    return make_private(layout->digests()).transform([&] { return std::move(*layout); });
}

bool lies_below(const std::filesystem::path & path, const std::vector<std::filesystem::path> & directories) {
    return std::ranges::any_of(directories, [&](const std::filesystem::path & directory) {
        return std::ranges::mismatch(directory, path).in1 == directory.end();
    });
}

std::filesystem::path digest_file(const Layout & layout, const std::filesystem::path & model) {
    const std::string & path = model.native();
    return layout.digests() / formatted("{:016x}", wire::fnv1a(const_bytes(path.data(), path.size())));
}

bool is_digest_file_name(std::string_view name) { return name.size() == 16; }

std::optional<FileDigests> load_digests(const std::filesystem::path & file) {
    const std::string text = read_whole(file);
    std::vector<std::string_view> lines;
    for (const auto line : std::views::split(text, '\n')) {
        lines.emplace_back(line.begin(), line.end());
    }
    // After the last newline, `lines` has one more, empty element.
    if (lines.size() < 5 || lines.front() != first_line || lines[lines.size() - 2] != last_line ||
        !lines.back().empty()) {
        return std::nullopt;
    }
    FileDigests digests{.path = lines[1]};
    Words stamp(lines[2]);
    digests.stamp.inode = stamp.number<uint64_t>();
    digests.stamp.size = stamp.number<uint64_t>();
    digests.stamp.modified_ns = stamp.number<int64_t>();
    bool good = stamp.all_good();
    for (std::string_view line : std::span(lines).subspan(3, lines.size() - 5)) {
        if (line.starts_with(part_mark)) {
            Words words(line.substr(part_mark.size()));
            PartDigest part;
            for (uint64_t * number : {&part.rows.offset, &part.rows.size, &part.rows.count, &part.rows.stride}) {
                *number = words.number<uint64_t>();
            }
            part.digest = words.digest();
            good = good && words.all_good() && part.rows.are_within(digests.stamp.size);
            digests.parts.push_back(std::move(part));
            continue;
        }
        Words words(line);
        TensorDigest tensor;
        tensor.extent.offset = words.number<uint64_t>();
        tensor.extent.size = words.number<uint64_t>();
        tensor.fnv = words.number<uint64_t>(16);
        tensor.digest = words.digest();
        good = good && words.all_good() && tensor.extent.size <= digests.stamp.size &&
               tensor.extent.offset <= digests.stamp.size - tensor.extent.size;
        digests.tensors.push_back(std::move(tensor));
    }
    return good ? std::optional(std::move(digests)) : std::nullopt;
}

Result<> save_digests(const Layout & layout, const FileDigests & digests) {
    if (digests.path.native().contains('\n')) {
        return fail(Errc::invalid_argument, "its path contains a newline");
    }
    std::string text = formatted("{}\n{}\n{} {} {}\n", first_line, digests.path.native(), digests.stamp.inode,
                                 digests.stamp.size, digests.stamp.modified_ns);
    for (const TensorDigest & tensor : digests.tensors) {
        text += formatted("{} {} {:016x} {}\n", tensor.extent.offset, tensor.extent.size, tensor.fnv, tensor.digest);
    }
    for (const PartDigest & part : digests.parts) {
        text += formatted("{}{} {} {} {} {}\n", part_mark, part.rows.offset, part.rows.size, part.rows.count,
                          part.rows.stride, part.digest);
    }
    text += formatted("{}\n", last_line);
    auto file = TemporaryFile::create(layout.digests());
    if (!file) {
        return std::unexpected(file.error());
    }
    return file->write(const_bytes(text.data(), text.size()))
        .and_then([&] { return file->close(); })
        .and_then([&] { return file->move_over(digest_file(layout, digests.path)); });
}

}  // namespace caravan::cache
