#include "cache/reader.h"

#include <algorithm>

#include "base/log.h"
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

void Reader::narrow(const Rows & part, std::string_view digest) {
    content_.rows = {content_.rows.offset + part.offset, part.size, part.count, part.stride};
    content_.digest = digest;
    on_damage_ = [path = content_.path, offset = content_.rows.offset](Damage, std::string_view reason) {
        log_debug("ignoring a part at byte {} of {}: {}", offset, path.string(), reason);
    };
}

size_t Reader::map(MutableBytes to) {
    const uint64_t size = content_.rows.size / page_size() * page_size();
    const bool is_aligned = (reinterpret_cast<uintptr_t>(to.data()) | content_.rows.offset) % page_size() == 0;
    if (!content_.is_sealed || !content_.rows.is_contiguous() || size < tunable::min_mapped_blob || !is_aligned) {
        return 0;
    }
    const MutableBytes pages = to.first(size);
    // The mapping holds the lock even after the descriptor is closed; is_mapped() relies on that.
    if (!lock_against_eviction(content_.fd.get()) || !is_immutable(content_.fd.get(), content_.path)) {
        return 0;
    }
    if (!platform::map_over(pages, content_.fd.get(), content_.rows.offset)) {
        return 0;
    }
    mapped_ = pages;
    hash(pages, true);
    done_ = size;
    return size;
}

void Reader::hash(ConstBytes data, bool is_stable) {
    if (done_ == 0 && is_stable && size() >= tunable::min_background_hash) {
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
    // The file may have grown beyond this content.
    const auto wanted = static_cast<size_t>(std::min<uint64_t>({to.size(), chunk_size, size() - done_}));
    if (wanted == 0) {
        return 0;
    }
    const auto got = read_packed(to.first(wanted));
    if (!got) {
        return fail(Errc::io, "weight cache: cannot read {}: {}", content_.path.string(), got.error().text);
    }
    hash(to.first(*got), is_stable);
    done_ += *got;
    return got;
}

// Reads the gaps between small rows too, which costs less than a call for each row.
Result<size_t> Reader::read_packed(MutableBytes to) {
    const Rows & rows = content_.rows;
    const uint64_t begin = rows.position(done_);
    if (rows.size >= tunable::min_row_read) {
        const auto within_row = std::min<uint64_t>(to.size(), rows.size - done_ % rows.size);
        return platform::read_at(content_.fd.get(), to.first(within_row), begin);
    }
    const uint64_t end = rows.position(done_ + to.size() - 1) + 1;
    with_gaps_.resize(std::min<uint64_t>(end - begin, chunk_size));
    return platform::read_at(content_.fd.get(), with_gaps_, begin).transform([&](size_t got) {
        return copy_packed(rows, done_, ConstBytes(with_gaps_).first(got), to);
    });
}

bool Reader::verify() {
    if (!is_verified_) {
        const std::string digest = background_ != nullptr ? background_->hex() : digest_.hex();
        const bool is_good = done_ == size() && digest == content_.digest;
        is_verified_ = is_good && (!content_.fnv || *content_.fnv == fnv_);
        if (!*is_verified_) {
            if (!mapped_.empty()) {
                platform::replace_by_zeros(mapped_);
            }
            if (is_good) {
                on_damage_(Damage::hash, "its FNV-1a hash does not match");
            } else {
                on_damage_(Damage::bytes,
                           done_ == size() ? "its BLAKE3 digest does not match" : "it cannot be read to the end");
            }
        }
    }
    return *is_verified_;
}

}  // namespace caravan::cache
