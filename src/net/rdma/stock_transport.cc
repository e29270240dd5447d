#include "net/rdma/stock_transport.h"

#include <algorithm>
#include <utility>

#include "net/rdma/queue_pair_transport.h"

namespace caravan::net::rdma {
namespace {

class StockTransport final : public QueuePairTransport {
public:
    // Every send requests a completion: see may_probe().
    StockTransport(std::unique_ptr<QueuePair> connected, UniqueFd socket, platform::Waker waker, StockFields::Sender self)
        : QueuePairTransport(one(std::move(connected)), std::move(socket), std::move(waker), UINT32_MAX), fields_(self) {}

private:
    static std::vector<std::unique_ptr<QueuePair>> one(std::unique_ptr<QueuePair> pair) {
        std::vector<std::unique_ptr<QueuePair>> out;
        out.push_back(std::move(pair));
        return out;
    }

    Rail * rail_for(bool) override { return first_rail().has_send_slot() ? &first_rail() : nullptr; }

    MutableBytes room_for_data(Rail & rail) override {
        const MutableBytes slot = rail.next_send_slot();
        return slot.first(static_cast<size_t>(std::min<uint64_t>(slot.size(), fields_.left())));
    }

    void send_data(Rail & rail, ConstBytes data) override {
        fields_.advance(data);
        post(rail, data.size());
    }

    void arrive(Rail & rail, uint32_t slot, ConstBytes message) override {
        if (message.empty()) {
            set_error(Errc::protocol, malformed);
            return;
        }
        keep(rail, slot, message);
    }

    void release(Rail & rail, uint32_t slot) override { post_again(rail, slot); }

    // A peer that computes may take no messages for long, and a probe waits for those before it.
    bool may_probe() const override { return first_rail().sends_in_flight() == 0; }

    StockFields fields_;
};

}  // namespace

Result<std::unique_ptr<Transport>> make_stock_transport(std::unique_ptr<QueuePair> pair, UniqueFd socket,
                                                        StockFields::Sender self) {
    auto waker = platform::Waker::make();
    if (!waker) {
        return std::unexpected(waker.error());
    }
    return std::make_unique<StockTransport>(std::move(pair), std::move(socket), std::move(*waker), self);
}

}  // namespace caravan::net::rdma
