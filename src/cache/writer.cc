#include "cache/writer.h"

#include <unistd.h>

#include <algorithm>

#include "base/log.h"
#include "base/size_text.h"
#include "cache/eviction.h"
#include "cache/fnv_index.h"

namespace caravan::cache {
namespace {

// Room is made for so many bytes, at most.
constexpr uint64_t most_at_once = 64 << 20;
constexpr uint64_t share_of_spare_room = 16;

}  // namespace

void StoreState::note_used(std::string_view digest, uint64_t size) {
    const std::lock_guard lock(mutex);
    if (max_bytes == 0 || failed || is_too_small || !used.emplace(digest).second) {
        return;
    }
    used_bytes += size;
    if (used_bytes > max_bytes) {
        is_too_small = true;
        used.clear();
        log_warning("weight cache: the weights of this session do not fit into {}, so each load pushes out what the next one "
                    "needs; restart the server with a larger --cache-size", size_text(max_bytes));
    }
}

void Writer::append(ConstBytes data) {
    while (!over_ && !data.empty()) {
        const ConstBytes chunk = data.first(std::min(data.size(), chunk_size));
        data = data.subspan(chunk.size());
        if (chunk.size() > size_ - taken_) {
            give_up("more bytes than announced");
            return;
        }
        if (!has_room(chunk.size())) {
            return;
        }
        if (fnv_) {
            fnv_ = wire::fnv1a(chunk, *fnv_);
        }
        digest_.update(chunk);
        taken_ += chunk.size();
        if (const auto written = file_.write(chunk); !written) {
            give_up(written.error());
        }
    }
}

// What other entries must give way to is what has arrived, not what was announced.
bool Writer::has_room(uint64_t size) {
    if (store_->max_bytes == 0 || taken_ + size <= room_) {
        return true;
    }
    const uint64_t rest = size_ - taken_, wanted = std::min(rest, std::clamp(taken_, size, std::max(size, most_at_once)));
    const auto spare = make_room(store_->layout, store_->max_bytes, wanted);
    if (!spare) {
        over_ = true;
        file_.discard();
        if (!store_->was_full.exchange(true)) {
            log_warning("weight cache: not all weights are kept: what sessions have mapped and unfinished uploads take its "
                        "room; allow it more with --cache-size");
        }
        return false;
    }
    // While there is much room one look is enough for a large upload, beside those of other sessions.
    room_ = taken_ + wanted + std::min(rest - wanted, *spare / share_of_spare_room);
    return true;
}

// There is no fsync. After a power failure a blob may be short or hold zeros although it has its name; readers check
// every byte before it counts, so such an entry only costs one more upload. Waiting for gigabytes to reach the disk
// would cost every upload.
bool Writer::commit() {
    if (over_) {
        return false;
    }
    if (taken_ != size_) {  // the peer went away: nothing to warn about here
        over_ = true;
        file_.discard();
        return false;
    }
    const std::string digest = digest_.hex();
    store_->note_used(digest, size_);
    const std::filesystem::path blob = store_->layout.blob(digest);
    // Over a blob of that name, if there is one: should that be damaged, it is mended. Not if a session has mapped it: both
    // would take their room then, and it was verified.
    const auto moved = file_.close().and_then([&]() -> Result<> {
        if (is_mapped(blob)) {
            file_.discard();
            return {};
        }
        return file_.move_over(blob);
    });
    if (!moved) {
        give_up(moved.error());
        return false;
    }
    const auto entered = fnv_ ? enter(store_->layout, {*fnv_, size_}, digest) : true;
    if (!entered || !*entered) {
        ::unlink(blob.c_str());  // no index file leads to it: another key would be another content
        entered ? give_up("other bytes are stored under the same FNV-1a hash and size, and stay")
                : give_up(entered.error());
        return false;
    }
    over_ = true;
    if (store_->max_bytes != 0) {
        make_room(store_->layout, store_->max_bytes, 0);  // others may have stored something meanwhile
    }
    return true;
}

void Writer::give_up(std::string_view reason) {
    over_ = true;
    file_.discard();
    log_warning("weight cache: {} are not kept: {}", size_text(size_), reason);
}

void Writer::give_up(const Error & error) {
    over_ = true;
    file_.discard();
    if (!store_->failed.exchange(true)) {
        log_warning("weight cache: nothing more is kept in this session: {}", error.text);
    }
}

}  // namespace caravan::cache
