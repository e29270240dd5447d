#include "net/rdma/ring_transport.h"

#include <algorithm>
#include <optional>
#include <utility>

#include "net/rdma/queue_pair_transport.h"
#include "net/rdma/ring_header.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {
namespace {

// The data messages that this end takes over a rail before it returns credits.
uint32_t window(const Geometry & geometry) { return geometry.depth - tunable::ring_reserved_slots; }

class RingTransport final : public QueuePairTransport {
public:
    RingTransport(std::vector<std::unique_ptr<QueuePair>> connected, UniqueFd socket, platform::Waker waker)
        : QueuePairTransport(std::move(connected), std::move(socket), std::move(waker), tunable::ring_signal_share) {
        size_t slots = 0;
        for (const auto & rail : rails()) {
            const uint32_t own = window(rail->pair().geometry());
            slots += own;
            rings_.push_back({.credits = rail->pair().peer_depth() - tunable::ring_reserved_slots,
                              .owed_limit = std::max(1u, own / tunable::ring_credit_share)});
        }
        early_.resize(slots);
    }

private:
    struct Ring {
        uint32_t credits;  // data messages that may be sent
        uint32_t owed_limit;
        uint32_t owed = 0;     // credits not yet returned to the peer
        uint32_t kept = 0;     // slots with data that was not consumed yet
        uint64_t arrived = 0;  // messages
    };
    struct Early {
        Rail * rail;
        uint32_t slot;
        ConstBytes data;
    };
    struct Header {
        uint32_t credits;
        uint32_t gap;     // messages of the rail that were lost before this one
        uint32_t number;
    };

    bool is_single() const { return rails().size() == 1; }
    Ring & ring(const Rail & rail) { return rings_[rail.index()]; }
    bool can_send_over(const Rail & rail) { return ring(rail).credits > 0 && rail.has_send_slot(); }

    // Messages of at most one slot use the first rail, if it has credits: the others add nothing to their latency. Longer data
    // goes over the rail with the fewest slots in flight. docs/model/rails.pml holds for any choice.
    Rail * rail_for(bool is_long) override {
        if (is_single() || (!is_long && can_send_over(first_rail()))) {
            return can_send_over(first_rail()) ? &first_rail() : nullptr;
        }
        Rail * best = nullptr;
        uint32_t fewest = UINT32_MAX;
        for (size_t i = 0; i < rails().size(); ++i) {
            Rail & rail = *rails()[(turn_ + i) % rails().size()];
            fewest = std::min(fewest, rail.slots_in_flight());
            if (can_send_over(rail) && (best == nullptr || rail.slots_in_flight() < best->slots_in_flight())) {
                best = &rail;
            }
        }
        const bool is_slow = best != nullptr && best->slots_in_flight() > fewest + tunable::ring_rail_lead;
        return is_long && is_slow ? nullptr : best;
    }

    MutableBytes room_for_data(Rail & rail) override { return rail.next_send_slot().subspan(sizeof(RingHeader)); }

    void send_data(Rail & rail, ConstBytes data) override {
        --ring(rail).credits;
        send_message(rail, data.size());
        turn_ = rail.index() + 1;
    }

    // Sends `size` bytes of data, which are in the next send slot behind the header. 0: the message only returns credits.
    void send_message(Rail & rail, size_t size) {
        const uint32_t credits = std::exchange(ring(rail).owed, 0);
        std::byte * const head = rail.next_send_slot().data();
        if (is_single()) {
            store(head, RingHeader{.credits = credits, .number = static_cast<uint32_t>(rail.posted())});
        } else {
            store(head, RailHeader{.credits = static_cast<uint16_t>(credits),
                                   .sequence = static_cast<uint16_t>(rail.posted()),
                                   .number = size > 0 ? sent_++ : 0});
        }
        post(rail, sizeof(RingHeader) + size);
    }

    Header header_of(ConstBytes message, const Ring & ring) const {
        if (is_single()) {
            const auto header = load<RingHeader>(message.data());
            return {header.credits, header.number - static_cast<uint32_t>(ring.arrived), static_cast<uint32_t>(next_)};
        }
        const auto header = load<RailHeader>(message.data());
        const auto gap = static_cast<uint16_t>(header.sequence - static_cast<uint16_t>(ring.arrived));
        return {header.credits, gap, header.number};
    }

    void arrive(Rail & rail, uint32_t slot, ConstBytes message) override {
        Ring & state = ring(rail);
        const bool has_header = message.size() >= sizeof(RingHeader);
        const Header header = has_header ? header_of(message, state) : Header{};
        const ConstBytes data = has_header ? message.subspan(sizeof(RingHeader)) : ConstBytes();
        const uint64_t credits = uint64_t{state.credits} + header.credits;
        if (!has_header || (data.empty() && header.credits == 0) || header.gap != 0 ||
            credits > rail.pair().peer_depth() - tunable::ring_reserved_slots) {
            set_error(Errc::protocol, malformed);
            return;
        }
        ++state.arrived;
        state.credits = static_cast<uint32_t>(credits);
        if (data.empty()) {
            post_again(rail, slot);
            return;
        }
        if (state.kept + state.owed >= window(rail.pair().geometry()) + 1) {
            set_error(Errc::protocol, "the peer sent more RDMA messages than it had credits for");
            return;
        }
        const uint32_t ahead = header.number - static_cast<uint32_t>(next_);
        if (ahead >= early_.size() || entry(next_ + ahead)) {
            set_error(Errc::protocol, malformed);  // the number was used before, or is beyond all credits
            return;
        }
        ++state.kept;
        entry(next_ + ahead) = {&rail, slot, data};
        for (; entry(next_); ++next_) {
            const Early message = *std::exchange(entry(next_), std::nullopt);
            keep(*message.rail, message.slot, message.data);
        }
    }

    std::optional<Early> & entry(uint64_t number) { return early_[number % early_.size()]; }

    void release(Rail & rail, uint32_t slot) override {
        --ring(rail).kept;
        if (post_again(rail, slot)) {
            ++ring(rail).owed;
            return_credits(rail);
        }
    }

    void after_progress() override {
        for (const auto & rail : rails()) {
            return_credits(*rail);
        }
    }

    void return_credits(Rail & rail) {
        if (ring(rail).owed >= ring(rail).owed_limit && rail.sends_in_flight() < rail.depth() && !has_failed()) {
            send_message(rail, 0);
        }
    }

    std::vector<Ring> rings_;  // of each rail
    size_t turn_ = 0;          // the rail that is preferred among equals
    uint32_t sent_ = 0;        // data messages, over several rails
    uint64_t next_ = 0;        // the number of the data message that is due
    // Data messages that overtook the one that is due, by number modulo the size: one entry for each data slot.
    std::vector<std::optional<Early>> early_;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_ring_transport(std::vector<std::unique_ptr<QueuePair>> pairs, UniqueFd socket) {
    auto waker = platform::Waker::make();
    if (!waker) {
        return std::unexpected(waker.error());
    }
    for (const auto & pair : pairs) {
        if (pair->peer_depth() <= tunable::ring_reserved_slots || pair->geometry().depth <= tunable::ring_reserved_slots) {
            return fail(Errc::protocol, "a ring has fewer than {} slots", tunable::ring_reserved_slots + 1);
        }
    }
    return std::make_unique<RingTransport>(std::move(pairs), std::move(socket), std::move(*waker));
}

}  // namespace caravan::net::rdma
