#include "bench/page_cache.h"

#include <algorithm>
#include <string_view>

#include "base/formatted.h"
#include "platform/file.h"
#include "platform/mapping.h"

namespace caravan::bench {
namespace {

Result<> drop_file(const std::string & path) {
    const auto file = platform::open_to_read(path);
    const auto status = file ? platform::status_of(file->get()) : std::nullopt;
    if (!status) {
        return fail(Errc::not_found, "cannot open {}: {}", path, file ? "its status is unknown" : file.error().text);
    }
    if (const auto dropped = platform::drop_from_page_cache(file->get()); !dropped) {
        return fail(dropped.error().code, "cannot drop {} from memory: {}", path, dropped.error().text);
    }
    if (status->size == 0) {
        return {};
    }
    const auto mapping = platform::Mapping::map(file->get(), 0, status->size);
    if (!mapping) {
        return fail(Errc::io, "{}: cannot map the file: {}", path, mapping.error().text);
    }
    const auto left = mapping->resident();
    if (!left) {
        return fail(Errc::io, "{}: cannot query its resident pages: {}", path, left.error().text);
    }
    if (*left > 0) {
        return fail(Errc::unavailable,
                    "cannot drop {} from memory: {} bytes stay; it is in use, or its file system is in memory", path, *left);
    }
    return {};
}

}  // namespace

std::vector<std::string> files_of(const std::string & model) {
    constexpr std::string_view ending = "-#####-of-#####.gguf";
    constexpr size_t digits = 5, count_at = 10;
    const std::string_view end = std::string_view(model).substr(model.size() - std::min(model.size(), ending.size()));
    const bool is_part = std::ranges::equal(end, ending, [](char c, char wanted) {
        return wanted == '#' ? c >= '0' && c <= '9' : c == wanted;
    });
    if (!is_part) {
        return {model};
    }
    const std::string name = model.substr(0, model.size() - ending.size()), count(end.substr(count_at, digits));
    std::vector<std::string> out;
    for (int number = 1; number <= std::stoi(count); ++number) {
        out.push_back(formatted("{}-{:05}-of-{}.gguf", name, number, count));
    }
    return out;
}

Result<> drop_from_memory(const std::string & model) {
    for (const std::string & file : files_of(model)) {
        if (auto dropped = drop_file(file); !dropped) {
            return dropped;
        }
    }
    return {};
}

}  // namespace caravan::bench
