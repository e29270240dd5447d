#include "cache/layout.h"

#include <array>
#include <system_error>

#include "base/log.h"
#include "cache/digest.h"
#include "platform/file.h"

namespace caravan::cache {
namespace {

Result<UniqueFd> open_to_read(const std::filesystem::path & path) {
    return platform::open_to_read(path, platform::Links::refuse_last);
}

// The blob name in an index file; "" if the file is malformed.
std::string read_name(Descriptor file) {
    std::array<char, digest_hex_length + 2> text;  // one byte more than a valid file has, to detect longer ones
    const auto got = platform::read_some(file, mutable_bytes(text.data(), text.size()));
    if (got != digest_hex_length + 1 || text[digest_hex_length] != '\n') {
        return {};
    }
    const std::string_view name(text.data(), digest_hex_length);
    return is_digest_hex(name) ? std::string(name) : std::string();
}

bool has_size(Descriptor file, uint64_t size) {
    const auto status = platform::status_of(file);
    return status && status->is_regular && status->size == size;
}

}  // namespace

std::filesystem::path Layout::index_file(Key key) const {
    return index() / formatted("{:016x}-{}", key.fnv, key.size);
}

Result<> make_private(const std::filesystem::path & directory) {
    if (auto made = platform::make_private_directory(directory); !made) {
        return fail(Errc::io, "weight cache: cannot create or write directory {}: {}", directory.string(), made.error().text);
    }
    return {};
}

Layout layout_in(const std::filesystem::path & directory) { return {directory / "caravan"}; }

Result<Layout> make_root(const std::filesystem::path & directory) {
    std::error_code error;
    std::filesystem::create_directories(directory, error);
    if (error) {
        return fail(Errc::io, "weight cache: cannot create directory {}: {}", directory.string(), error.message());
    }
    Layout layout = layout_in(directory);
    return make_private(layout.root).transform([&] { return std::move(layout); });
}

std::optional<Blob> open_blob(const Layout & layout, Key key) {
    const std::filesystem::path index_file = layout.index_file(key);
    const auto index = open_to_read(index_file);
    if (!index) {
        if (index.error().code != Errc::not_found) {
            log_warning("weight cache: cannot read {}: {}", index_file.string(), index.error().text);
        }
        return std::nullopt;
    }
    std::string name = read_name(index->get());
    if (name.empty()) {
        remove_entry(layout, key, {}, "its index file is damaged");
        return std::nullopt;
    }
    const std::filesystem::path path = layout.blob(name);
    auto fd = open_to_read(path);
    if (!fd) {
        if (fd.error().code != Errc::io) {
            remove_entry(layout, key, name, "its blob is missing");
        } else {
            log_warning("weight cache: cannot read {}: {}", path.string(), fd.error().text);
        }
        return std::nullopt;
    }
    if (!has_size(fd->get(), key.size)) {
        remove_entry(layout, key, name, "its blob has the wrong size");
        return std::nullopt;
    }
    return Blob{std::move(name), std::move(*fd)};
}

std::optional<Blob> open_blob(const Layout & layout, std::string_view digest, uint64_t size) {
    if (!is_digest_hex(digest)) {
        return std::nullopt;
    }
    auto fd = open_to_read(layout.blob(digest));
    if (!fd || !has_size(fd->get(), size)) {
        return std::nullopt;
    }
    return Blob{std::string(digest), std::move(*fd)};
}

std::string read_index_file(const std::filesystem::path & path) {
    const auto fd = open_to_read(path);
    return fd ? read_name(fd->get()) : std::string();
}

void remove_entry(const Layout & layout, Key key, std::string_view digest, std::string_view reason) {
    const std::filesystem::path index_file = layout.index_file(key);
    log_warning("weight cache: removing {}: {}", index_file.string(), reason);
    // The index file first, so that it does not lead other processes to a missing blob.
    platform::remove_name(index_file);
    if (!digest.empty()) {
        platform::remove_name(layout.blob(digest));
    }
}

}  // namespace caravan::cache
