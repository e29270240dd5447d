#include "cache/reader.h"

#include <unistd.h>

#include <algorithm>
#include <cerrno>

namespace caravan::cache {

Result<size_t> Reader::read(MutableBytes to) {
    // No further than the size that was asked for, even if the file has grown since.
    const auto wanted = static_cast<size_t>(std::min<uint64_t>({to.size(), chunk_size, key_.size - taken_}));
    if (wanted == 0) {
        return 0;
    }
    ssize_t n;
    do {
        n = ::read(blob_.fd.get(), to.data(), wanted);
    } while (n < 0 && errno == EINTR);
    if (n < 0) {
        return fail(Errc::io, "weight cache: cannot read {}: {}", layout_.blob(blob_.sha256).string(),
                    errno_text(errno));
    }
    const auto got = static_cast<size_t>(n);
    digest_.update(to.first(got));
    taken_ += got;
    return got;
}

bool Reader::verify() {
    if (!verdict_) {
        verdict_ = taken_ == key_.size && digest_.hex() == blob_.sha256;
        if (!*verdict_) {
            remove_entry(layout_, key_, blob_.sha256,
                         taken_ == key_.size ? "its blob was altered" : "its blob cannot be read to the end");
        }
    }
    return *verdict_;
}

}  // namespace caravan::cache
