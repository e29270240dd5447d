#include "net/rdma/ring_transport.h"

#include <algorithm>
#include <utility>

#include "net/rdma/queue_pair_transport.h"
#include "net/rdma/ring_header.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {
namespace {

class RingTransport final : public QueuePairTransport {
public:
    RingTransport(std::unique_ptr<QueuePair> connected, UniqueFd socket, platform::Waker waker)
        : QueuePairTransport(std::move(connected), std::move(socket), std::move(waker), tunable::ring_signal_share),
          credits_(pair().peer_depth() - tunable::ring_reserved_slots),
          owed_limit_(std::max(1u, (depth() - tunable::ring_reserved_slots) / tunable::ring_credit_share)) {}

private:
    bool can_send() const override { return credits_ > 0 && has_send_slot(); }

    MutableBytes room_for_data() override { return next_send_slot().subspan(sizeof(RingHeader)); }

    void send_data(ConstBytes data) override {
        --credits_;
        send_message(data.size());
    }

    // Sends `size` bytes of data, which are in the next send slot behind the header. 0: the message only returns credits.
    void send_message(size_t size) {
        store(next_send_slot().data(),
              RingHeader{.credits = std::exchange(owed_, 0), .number = static_cast<uint32_t>(posted())});
        post(sizeof(RingHeader) + size);
    }

    void arrive(uint32_t slot, ConstBytes message) override {
        const bool has_header = message.size() >= sizeof(RingHeader);
        const RingHeader header = has_header ? load<RingHeader>(message.data()) : RingHeader{};
        const ConstBytes data = has_header ? message.subspan(sizeof(RingHeader)) : ConstBytes();
        const uint64_t credits = header.credits;
        if (!has_header || (data.empty() && credits == 0) || header.number != static_cast<uint32_t>(arrived_) ||
            credits_ + credits > pair().peer_depth() - tunable::ring_reserved_slots) {
            set_error(Errc::protocol, malformed);
            return;
        }
        ++arrived_;
        credits_ += static_cast<uint32_t>(credits);
        if (data.empty()) {
            post_again(slot);
            return;
        }
        if (kept() + owed_ >= depth() - tunable::ring_reserved_slots + 1) {
            set_error(Errc::protocol, "the peer sent more RDMA messages than it had credits for");
            return;
        }
        keep(slot, data);
    }

    void release(uint32_t slot) override {
        if (post_again(slot)) {
            ++owed_;
            return_credits();
        }
    }

    void after_progress() override { return_credits(); }

    void return_credits() {
        if (owed_ >= owed_limit_ && sends_in_flight() < depth() && !has_failed()) {
            send_message(0);
        }
    }

    uint32_t credits_;   // data messages that may be sent
    uint32_t owed_ = 0;  // credits not yet returned to the peer
    const uint32_t owed_limit_;
    uint64_t arrived_ = 0;  // messages
};

}  // namespace

Result<std::unique_ptr<Transport>> make_ring_transport(std::unique_ptr<QueuePair> pair, UniqueFd socket) {
    auto waker = platform::Waker::make();
    if (!waker) {
        return std::unexpected(waker.error());
    }
    if (pair->peer_depth() <= tunable::ring_reserved_slots || pair->geometry().depth <= tunable::ring_reserved_slots) {
        return fail(Errc::protocol, "a ring has fewer than {} slots", tunable::ring_reserved_slots + 1);
    }
    return std::make_unique<RingTransport>(std::move(pair), std::move(socket), std::move(*waker));
}

}  // namespace caravan::net::rdma
