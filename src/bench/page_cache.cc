#include "bench/page_cache.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <string_view>

#include "base/formatted.h"
#include "platform/pages.h"
#include "platform/unique_fd.h"

namespace caravan::bench {
namespace {

// The number of bytes, of a file of `size` bytes, that are in memory.
Result<size_t> resident(int fd, size_t size) {
    void * at = ::mmap(nullptr, size, PROT_READ, MAP_SHARED, fd, 0);
    if (at == MAP_FAILED) {
        return fail(Errc::io, "cannot map the file: {}", errno_text(errno));
    }
    const auto page = page_size();
    std::vector<unsigned char> pages((size + page - 1) / page);
    const bool known = ::mincore(at, size, pages.data()) == 0;
    ::munmap(at, size);
    if (!known) {
        return fail(Errc::io, "cannot query its resident pages: {}", errno_text(errno));
    }
    return static_cast<size_t>(std::ranges::count_if(pages, [](unsigned char p) { return (p & 1) != 0; })) * page;
}

Result<> drop_file(const std::string & path) {
    const UniqueFd fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
    struct stat status {};
    if (!fd || ::fstat(fd.get(), &status) != 0) {
        return fail(Errc::not_found, "cannot open {}: {}", path, errno_text(errno));
    }
    ::fdatasync(fd.get());  // dirty pages cannot be dropped
    if (const int error = ::posix_fadvise(fd.get(), 0, 0, POSIX_FADV_DONTNEED); error != 0) {
        return fail(Errc::unsupported, "cannot drop {} from memory: {}", path, errno_text(error));
    }
    const auto left = status.st_size == 0 ? Result<size_t>(0) : resident(fd.get(), static_cast<size_t>(status.st_size));
    if (!left) {
        return fail(left.error().code, "{}: {}", path, left.error().text);
    }
    if (*left > 0) {
        return fail(Errc::unavailable, "cannot drop {} from memory: {} bytes stay; it is in use, or its file system is in memory",
                    path, *left);
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
