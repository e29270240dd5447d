#include "cache/reader.h"

#include <fcntl.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>

#include "base/pages.h"

namespace caravan::cache {
namespace {

constexpr uint64_t worth_a_thread = 4 << 20;  // bytes
constexpr uint64_t worth_mapping = 256 << 10;

// Of a sealed file: does nobody who opened it earlier, or by another name, write to it?
bool is_finished(int fd, const std::filesystem::path & path) {
#ifdef __linux__
    struct stat opened, named;
    if (::fstat(fd, &opened) != 0 || ::lstat(path.c_str(), &named) != 0 || opened.st_dev != named.st_dev ||
        opened.st_ino != named.st_ino || named.st_nlink != 1) {
        return false;
    }
    // The kernel gives a lease to read only while no process has the file open to write.
    if (::fcntl(fd, F_SETLEASE, F_RDLCK) != 0) {
        return false;
    }
    ::fcntl(fd, F_SETLEASE, F_UNLCK);
    return true;
#else
    (void)fd, (void)path;
    return false;
#endif
}

// No process removes it to make room from now on, as long as this file is open or mapped.
bool is_kept(int fd) { return ::flock(fd, LOCK_SH | LOCK_NB) == 0 || errno != EWOULDBLOCK; }

// Empty pages in the place of what is there.
void unmap(MutableBytes pages) {
    ::mmap(pages.data(), pages.size(), PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0);
}

}  // namespace

size_t Reader::map(MutableBytes to) {
    const uint64_t size = content_.size / page_size() * page_size();
    const bool is_aligned = (reinterpret_cast<uintptr_t>(to.data()) | content_.offset) % page_size() == 0;
    if (!content_.is_sealed || size < worth_mapping || !is_aligned) {
        return 0;
    }
    const MutableBytes pages = to.first(size);
    // The mapping keeps it, after the descriptor is closed too: make_room() counts on what is mapped.
    if (!is_kept(content_.fd.get()) || !is_finished(content_.fd.get(), content_.path)) {
        return 0;
    }
    if (::mmap(pages.data(), size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED, content_.fd.get(),
               static_cast<off_t>(content_.offset)) == MAP_FAILED) {
        unmap(pages);  // a part may be gone
        return 0;
    }
    mapped_ = pages;
    hash(pages, true);
    taken_ = size;
    return size;
}

void Reader::hash(ConstBytes data, bool stays) {
    if (taken_ == 0 && stays && content_.size >= worth_a_thread) {
        background_ = std::make_unique<BackgroundDigest>();
    }
    if (background_ != nullptr) {
        background_->update(data);
    } else {
        digest_.update(data);
    }
    // Slower than the other, which goes on beside it.
    if (content_.fnv) {
        fnv_ = wire::fnv1a(data, fnv_);
    }
}

Result<size_t> Reader::read(MutableBytes to, bool stays) {
    // No further than the size that was asked for, even if the file has grown since.
    const auto wanted = static_cast<size_t>(std::min<uint64_t>({to.size(), chunk_size, content_.size - taken_}));
    if (wanted == 0) {
        return 0;
    }
    ssize_t n;
    do {
        n = ::pread(content_.fd.get(), to.data(), wanted, static_cast<off_t>(content_.offset + taken_));
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return fail(Errc::io, "weight cache: cannot read {}: {}", content_.path.string(), errno_text(errno));
    }
    const auto got = static_cast<size_t>(n);
    hash(to.first(got), stays);
    taken_ += got;
    return got;
}

bool Reader::verify() {
    if (!verdict_) {
        const std::string digest = background_ != nullptr ? background_->hex() : digest_.hex();
        const bool is_good = taken_ == content_.size && digest == content_.digest;
        verdict_ = is_good && (!content_.fnv || *content_.fnv == fnv_);
        if (!*verdict_) {
            if (!mapped_.empty()) {
                unmap(mapped_);
            }
            if (is_good) {
                on_damage_(Damage::hash, "its content has another FNV-1a hash");
            } else {
                on_damage_(Damage::bytes,
                           taken_ == content_.size ? "its bytes were altered" : "it cannot be read to the end");
            }
        }
    }
    return *verdict_;
}

}  // namespace caravan::cache
