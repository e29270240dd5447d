#include "cache/reader.h"

#include <algorithm>

#include "platform/file.h"
#include "platform/mapping.h"
#include "platform/pages.h"
#include "tunables/cache.h"

namespace caravan::cache {
namespace {

// True if no process can write to this sealed file: none has it open for writing, and it has no other name.
bool is_immutable(Descriptor file, const std::filesystem::path & path) {
    const auto opened = platform::status_of(file), named = platform::status_of_name(path);
    return opened && named && opened->device == named->device && opened->inode == named->inode && named->links == 1 &&
           platform::has_no_writer(file);
}

// Prevents eviction while the file is open or mapped. Returns false if it is being evicted.
bool lock_against_eviction(Descriptor file) {
    return platform::try_lock(file, platform::Lock::shared) != platform::Locked::busy;
}

}  // namespace

size_t Reader::map(MutableBytes to) {
    const uint64_t size = content_.size / page_size() * page_size();
    const bool is_aligned = (reinterpret_cast<uintptr_t>(to.data()) | content_.offset) % page_size() == 0;
    if (!content_.is_sealed || size < tunable::min_mapped_blob || !is_aligned) {
        return 0;
    }
    const MutableBytes pages = to.first(size);
    // The mapping holds the lock even after the descriptor is closed; is_mapped() relies on that.
    if (!lock_against_eviction(content_.fd.get()) || !is_immutable(content_.fd.get(), content_.path)) {
        return 0;
    }
    if (!platform::map_over(pages, content_.fd.get(), content_.offset)) {
        return 0;
    }
    mapped_ = pages;
    hash(pages, true);
    done_ = size;
    return size;
}

void Reader::hash(ConstBytes data, bool is_stable) {
    if (done_ == 0 && is_stable && content_.size >= tunable::min_background_hash) {
        background_ = std::make_unique<BackgroundDigest>();
    }
    if (background_ != nullptr) {
        background_->update(data);
    } else {
        digest_.update(data);
    }
    // Slower than BLAKE3, and concurrent with the background thread.
    if (content_.fnv) {
        fnv_ = wire::fnv1a(data, fnv_);
    }
}

Result<size_t> Reader::read(MutableBytes to, bool is_stable) {
    // The file may have grown beyond content_.size.
    const auto wanted = static_cast<size_t>(std::min<uint64_t>({to.size(), chunk_size, content_.size - done_}));
    if (wanted == 0) {
        return 0;
    }
    const auto got = platform::read_at(content_.fd.get(), to.first(wanted), content_.offset + done_);
    if (!got) {
        return fail(Errc::io, "weight cache: cannot read {}: {}", content_.path.string(), got.error().text);
    }
    hash(to.first(*got), is_stable);
    done_ += *got;
    return got;
}

bool Reader::verify() {
    if (!is_verified_) {
        const std::string digest = background_ != nullptr ? background_->hex() : digest_.hex();
        const bool is_good = done_ == content_.size && digest == content_.digest;
        is_verified_ = is_good && (!content_.fnv || *content_.fnv == fnv_);
        if (!*is_verified_) {
            if (!mapped_.empty()) {
                platform::replace_by_zeros(mapped_);
            }
            if (is_good) {
                on_damage_(Damage::hash, "its FNV-1a hash does not match");
            } else {
                on_damage_(Damage::bytes,
                           done_ == content_.size ? "its BLAKE3 digest does not match" : "it cannot be read to the end");
            }
        }
    }
    return *is_verified_;
}

}  // namespace caravan::cache
