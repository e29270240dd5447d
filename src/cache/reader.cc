#include "cache/reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace caravan::cache {
namespace {

constexpr uint64_t worth_a_thread = 4 << 20;  // bytes

}  // namespace

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
    if (taken_ == 0 && stays && content_.size >= worth_a_thread) {
        background_ = std::make_unique<BackgroundDigest>();
    }
    if (background_ != nullptr) {
        background_->update(to.first(got));
    } else {
        digest_.update(to.first(got));
    }
    taken_ += got;
    return got;
}

bool Reader::verify() {
    if (!verdict_) {
        const std::string digest = background_ != nullptr ? background_->hex() : digest_.hex();
        verdict_ = taken_ == content_.size && digest == content_.digest;
        if (!*verdict_) {
            on_damage_(taken_ == content_.size ? "its bytes were altered" : "it cannot be read to the end");
        }
    }
    return *verdict_;
}

}  // namespace caravan::cache
