// One queue pair of a transport: its sends, its requests for completion events, and its device's events. The transport
// synchronizes the threads that call it.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "net/rdma/device_events.h"
#include "net/rdma/queue_pair.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {

class Rail {
public:
    // The wr_id of a send is this tag and its number, counted from 1. That of a receive is its slot.
    static constexpr uint64_t send_tag = uint64_t{1} << 63;
    static constexpr uint64_t probe_id = uint64_t{1} << 62;

    // `pair` is connected. `index`: of this rail in its transport. A completion is requested for each message that fills its
    // slot, and after each 1/`signal_share` of the send slots, at least one.
    Rail(std::unique_ptr<QueuePair> pair, uint32_t index, uint32_t signal_share);
    ~Rail();
    Rail(const Rail &) = delete;
    Rail & operator=(const Rail &) = delete;

    uint32_t index() const { return index_; }
    const QueuePair & pair() const { return *pair_; }
    uint32_t depth() const { return pair_->geometry().depth; }
    MutableBytes receive_slot(uint32_t slot) { return pair_->receive_slot(slot); }
    Result<> post_receive(uint32_t slot) { return pair_->post_receive(slot); }

    uint64_t posted() const { return posted_; }  // messages
    uint64_t sends_in_flight() const { return posted_ - completed_; }
    bool has_send_slot() const { return sends_in_flight() < depth() - tunable::ring_reserved_slots; }
    MutableBytes next_send_slot();
    Result<> post(size_t size);  // sends that many bytes of next_send_slot()
    Result<> post_probe();       // an empty RDMA WRITE
    void complete_sends(uint64_t number);
    // Messages in flight that fill their slot. Each of them requests a completion, so the number is exact.
    uint32_t slots_in_flight() const { return slots_in_flight_; }

    // Waiting thread only. Requests an event for the next message, and for the next completed send if `of_sends`. Each request
    // yields one event. True if there was a new request: completions may have come before it.
    Result<bool> arm(bool of_sends);
    int events_fd() const { return pair_->channel()->fd; }
    void take_event();
    DeviceEvents & device_events() { return device_events_; }

private:
    struct Events {
        ibv_cq * queue;
        bool armed = false;           // an event was requested and not taken yet
        unsigned unacknowledged = 0;  // taken events
    };
    Result<> post_request(ibv_send_wr & request);

    const std::unique_ptr<QueuePair> pair_;
    const uint32_t index_;
    const uint32_t signal_every_;
    DeviceEvents device_events_;
    Events sends_, receives_;
    uint64_t posted_ = 0, completed_ = 0;  // sends; slot = number % depth
    std::vector<bool> fills_slot_;         // by number % depth: of the sends in flight, which ones do
    uint32_t slots_in_flight_ = 0;
};

}  // namespace caravan::net::rdma
