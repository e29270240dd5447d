// What the data paths over a queue pair have in common: sending from slots, taking messages out of slots, waiting, and noticing
// the loss of the peer. A derived class decides what a message contains.
//
// The TCP connection stays open: its close means that the peer has closed. An empty RDMA WRITE after a few seconds of
// silence detects the loss of the peer or of the network path; it costs the peer nothing.
#pragma once

#include <deque>
#include <memory>
#include <mutex>
#include <optional>
#include <string>

#include "net/rdma/device_events.h"
#include "net/rdma/queue_pair.h"
#include "net/transport.h"
#include "platform/unique_fd.h"
#include "platform/waker.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {

class QueuePairTransport : public Transport {
public:
    // `pair` is connected. A completion is requested for each message that fills its slot, and after each 1/`signal_share` of
    // the send slots, at least one.
    QueuePairTransport(std::unique_ptr<QueuePair> pair, UniqueFd socket, platform::Waker waker, uint32_t signal_share);
    ~QueuePairTransport() override;

    Result<size_t> send(std::span<const ConstBytes> parts) override;
    Result<size_t> receive(std::span<const MutableBytes> parts) override;
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override;
    void wake() override;
    void break_off() override;
    TransportKind kind() const override { return TransportKind::rdma; }

protected:
    static constexpr const char * malformed = "the peer sent a malformed RDMA message";

    // All of these are called with mutex_ locked.

    // Whether data may be sent now.
    virtual bool can_send() const { return has_send_slot(); }
    // The part of the next send slot that data goes to.
    virtual MutableBytes room_for_data() = 0;
    // Sends `data`, which is at the beginning of room_for_data().
    virtual void send_data(ConstBytes data) = 0;
    // Takes a message: keep() or post_again() its slot, or set_error().
    virtual void arrive(uint32_t slot, ConstBytes message) = 0;
    // The data of a kept slot has been consumed.
    virtual void release(uint32_t slot);
    virtual void after_progress() {}
    // Whether the peer acknowledges a probe now.
    virtual bool may_probe() const { return true; }

    bool has_send_slot() const { return sends_in_flight() < depth_ - tunable::ring_reserved_slots; }
    uint64_t sends_in_flight() const { return posted_ - completed_; }
    uint64_t posted() const { return posted_; }  // messages
    MutableBytes next_send_slot();
    void post(size_t size);  // sends that many bytes of next_send_slot()
    void keep(uint32_t slot, ConstBytes data);
    size_t kept() const { return ready_.size(); }
    bool post_again(uint32_t slot);
    bool has_failed() const { return error_.has_value(); }
    void set_error(Errc code, std::string text);
    const QueuePair & pair() const { return *pair_; }
    uint32_t depth() const { return depth_; }

private:
    struct Arrived {
        uint32_t slot;
        ConstBytes rest;
    };
    struct Events {
        ibv_cq * queue;
        bool armed = false;           // an event was requested and not taken yet
        unsigned unacknowledged = 0;  // taken events
    };

    bool is_ready(Interest interest);
    bool poll(Interest interest, TimePoint deadline, microseconds spin);
    void post_request(ibv_send_wr & request);
    void progress();
    void take_completions(ibv_cq * queue);
    void complete(const ibv_wc & completion);
    Result<bool> arm();
    void take_event();
    void check_side_channel();
    void check_device();
    TimePoint next_probe();
    void probe_if_silent();

    const std::unique_ptr<QueuePair> pair_;
    const UniqueFd socket_;
    const platform::Waker waker_;
    DeviceEvents events_;  // waiting thread only
    const uint32_t depth_;
    Events sends_, receives_;  // waiting thread only
    const uint32_t signal_every_;

    std::mutex mutex_;  // a waiting thread processes completions of other threads' operations
    std::optional<Error> error_;
    uint64_t posted_ = 0, completed_ = 0;  // sends; slot = number % depth
    std::deque<Arrived> ready_;
    uint64_t completions_ = 1;
    // Data that takes longer than one slot is on its way: a message since the last one that arrived, or that one, filled its
    // slot.
    bool in_long_transfer_ = false;
    bool has_activity_ = false;  // since last_activity_ was set: the clock is read only before sleeping
    TimePoint last_activity_ = Clock::now();
    std::optional<TimePoint> probe_sent_;
};

}  // namespace caravan::net::rdma
