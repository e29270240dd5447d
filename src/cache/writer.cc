#include "cache/writer.h"

#include <algorithm>

#include "base/log.h"
#include "base/size_text.h"
#include "cache/eviction.h"
#include "cache/fnv_index.h"
#include "platform/file.h"
#include "tunables/cache.h"

namespace caravan::cache {

void StoreState::note_used(std::string_view digest, uint64_t size) {
    const std::lock_guard lock(mutex);
    if (max_bytes == 0 || failed || is_too_small || !used.emplace(digest).second) {
        return;
    }
    used_bytes += size;
    if (used_bytes > max_bytes) {
        is_too_small = true;
        used.clear();
        log_warning("weight cache: the weights of this session do not fit into {}, so each load evicts weights that the next "
                    "one needs; restart the server with a larger --cache-size", size_text(max_bytes));
    }
}

void Writer::append(ConstBytes data) {
    while (!is_over_ && !data.empty()) {
        const ConstBytes chunk = data.first(std::min(data.size(), chunk_size));
        data = data.subspan(chunk.size());
        if (chunk.size() > size_ - done_) {
            abandon("more bytes than announced");
            return;
        }
        if (!reserve(chunk.size())) {
            return;
        }
        if (fnv_) {
            fnv_ = wire::fnv1a(chunk, *fnv_);
        }
        digest_.update(chunk);
        done_ += chunk.size();
        if (const auto written = file_.write(chunk); !written) {
            abandon(written.error());
        }
    }
}

// Eviction follows the bytes that have arrived, not the announced size, which costs a malicious client nothing.
bool Writer::reserve(uint64_t size) {
    if (store_->max_bytes == 0 || done_ + size <= reserved_) {
        return true;
    }
    const uint64_t rest = size_ - done_;
    const uint64_t needed = std::min(rest, std::clamp(done_, size, std::max(size, tunable::max_reservation)));
    const auto spare = evict_to_fit(store_->layout, store_->max_bytes, needed);
    if (!spare) {
        is_over_ = true;
        file_.discard();
        if (!store_->was_full.exchange(true)) {
            log_warning("weight cache: full, some weights are not stored: blobs that sessions have mapped and unfinished "
                        "uploads cannot be evicted; raise --cache-size");
        }
        return false;
    }
    // With much free space, a large upload needs few scans of the directory. The divisor leaves space to other sessions.
    reserved_ = done_ + needed + std::min(rest - needed, *spare / tunable::free_space_divisor);
    return true;
}

// Does not call fsync, which would delay every upload. After a power failure a blob may be short or contain zeros. Readers
// verify each blob, so that costs one more upload.
bool Writer::commit() {
    if (is_over_) {
        return false;
    }
    if (done_ != size_) {  // the client has left, which is logged elsewhere
        is_over_ = true;
        file_.discard();
        return false;
    }
    const std::string digest = digest_.hex();
    store_->note_used(digest, size_);
    const std::filesystem::path blob = store_->layout.blob(digest);
    // Replaces an existing blob of this name, which may be damaged. Keeps a blob that is mapped: its disk space would stay
    // allocated, and a session verifies what it maps. (A compromised worker can lock a file of this name with other bytes; the
    // next session that reads it finds them damaged, and removes it.)
    const auto moved = file_.close().and_then([&]() -> Result<> {
        if (is_mapped(blob)) {
            file_.discard();
            return {};
        }
        return file_.move_over(blob);
    });
    if (!moved) {
        abandon(moved.error());
        return false;
    }
    const auto indexed = fnv_ ? add_to_index(store_->layout, {*fnv_, size_}, digest) : true;
    if (!indexed || !*indexed) {
        platform::remove_name(blob);  // its only possible key belongs to another blob, or cannot be stored
        indexed ? abandon("another blob has the same FNV-1a hash and size") : abandon(indexed.error());
        return false;
    }
    is_over_ = true;
    if (store_->max_bytes != 0) {
        evict_to_fit(store_->layout, store_->max_bytes, 0);  // concurrent uploads may have exceeded the limit
    }
    return true;
}

void Writer::abandon(std::string_view reason) {
    is_over_ = true;
    file_.discard();
    log_warning("weight cache: not storing {} of weights: {}", size_text(size_), reason);
}

void Writer::abandon(const Error & error) {
    is_over_ = true;
    file_.discard();
    if (!store_->failed.exchange(true)) {
        log_warning("weight cache: this session stores no more weights: {}", error.text);
    }
}

}  // namespace caravan::cache
