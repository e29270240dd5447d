#include "client/weights/weight_source.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cerrno>

#include "platform/pages.h"
#include "platform/unique_fd.h"

namespace caravan::client {

Result<MappedWeights> MappedWeights::map(const WeightSource & source) {
    const UniqueFd fd(::open(source.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd) {
        return fail(Errc::io, "cannot read {}: {}", source.path.string(), errno_text(errno));
    }
    if (cache::FileStamp::of(fd.get()) != source.stamp) {
        return fail(Errc::not_found, "{} changed while it was being loaded", source.path.string());
    }
    const auto page = page_size();
    const uint64_t before = source.extent.offset % page;
    void * mapped = ::mmap(nullptr, before + source.extent.size, PROT_READ, MAP_PRIVATE, fd.get(),
                           static_cast<off_t>(source.extent.offset - before));
    if (mapped == MAP_FAILED) {
        return fail(Errc::io, "cannot map {}: {}", source.path.string(), errno_text(errno));
    }
    const MutableBytes pages = mutable_bytes(mapped, before + source.extent.size);
    return MappedWeights(pages, pages.subspan(before));
}

MappedWeights::~MappedWeights() {
    if (!mapped_.empty()) {
        ::munmap(mapped_.data(), mapped_.size());
    }
}

}  // namespace caravan::client
