#include "client/session/relays.h"

#include "base/formatted.h"
#include "client/session/connection.h"
#include "client/session/undelivered_regions.h"

namespace caravan::client {

void Relays::add(std::shared_ptr<Connection> source, Stream::Ticket ticket, uint64_t begin, std::vector<std::byte> bytes) {
    const ConstBytes in_hole(bytes);
    target_.append_hole(begin, std::move(bytes));
    relays_.push_back({std::move(source), ticket, begin, in_hole});
}

void Relays::fill_before(Stream::Lock & lock, uint64_t position) {
    while (!relays_.empty() && relays_.front().hole < position) {
        const Relay relay = relays_.front();
        lock.unlock();
        relay.source->await(relay.ticket);
        lock.lock();
        if (!relays_.empty() && relays_.front().hole == relay.hole) {  // else another thread filled it
            if (is_absent(GGML_TYPE_F32, relay.bytes)) {
                target_.set_launch_failure(formatted("its input from {} did not arrive", relay.source->endpoint().text()));
            }
            target_.fill(relay.hole);
            relays_.pop_front();
        }
    }
}

void Relays::await_sources() {
    for (const Relay & relay : relays_) {
        relay.source->await(relay.ticket);
    }
}

}  // namespace caravan::client
