#include "client/session/command_queue.h"

namespace caravan::client {

void CommandQueue::begin(Lock & lock, bool may_overtake_uploads) {
    if (!may_overtake_uploads) {
        uploads_.complete(lock);
    }
    discard_prefetched();
    if (prediction().end_launch() && relays().empty()) {
        flush(lock);
    }
}

void CommandQueue::begin_read(Lock & lock) {
    discard_prefetched();
    uploads_.complete(lock);
}

void CommandQueue::await_upgrade() {
    if (await_upgrade_until_.load(std::memory_order_relaxed) != TimePoint::min()) {
        stream().await_upgrade(await_upgrade_until_);
        await_upgrade_until_ = TimePoint::min();
    }
}

void CommandQueue::append(const std::vector<HeldWrite> & writes) {
    for (const HeldWrite & held : writes) {
        append_write(held.region, held.offset, held.data, false);
    }
}

}  // namespace caravan::client
