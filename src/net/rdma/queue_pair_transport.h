// What the data paths over queue pairs have in common: sending from slots, taking messages out of slots, waiting, and noticing
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
#include <vector>

#include "net/rdma/rail.h"
#include "net/transport.h"
#include "platform/unique_fd.h"
#include "platform/waker.h"

namespace caravan::net::rdma {

class QueuePairTransport : public Transport {
public:
    // `pairs`: at least one; they are connected. `signal_share`: see Rail.
    QueuePairTransport(std::vector<std::unique_ptr<QueuePair>> pairs, UniqueFd socket, platform::Waker waker,
                       uint32_t signal_share);

    Result<size_t> send(std::span<const ConstBytes> parts) override;
    Result<size_t> receive(std::span<const MutableBytes> parts) override;
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override;
    void wake() override;
    void break_off() override;
    TransportKind kind() const override { return TransportKind::rdma; }
    uint32_t queue_pairs() const override { return static_cast<uint32_t>(rails_.size()); }

protected:
    static constexpr const char * malformed = "the peer sent a malformed RDMA message";

    // All of these are called with mutex_ locked.

    // The rail for the next message; null: none may be sent now. `is_long`: more data follows than fits into a slot.
    virtual Rail * rail_for(bool is_long) = 0;
    // The part of the rail's next send slot that data goes to.
    virtual MutableBytes room_for_data(Rail & rail) = 0;
    // Sends `data`, which is at the beginning of room_for_data().
    virtual void send_data(Rail & rail, ConstBytes data) = 0;
    // Takes a message: keep() or post_again() its slot, or set_error().
    virtual void arrive(Rail & rail, uint32_t slot, ConstBytes message) = 0;
    // The data of a kept slot has been consumed.
    virtual void release(Rail & rail, uint32_t slot) = 0;
    virtual void after_progress() {}
    // Whether the peer acknowledges probes now.
    virtual bool may_probe() const { return true; }

    std::span<const std::unique_ptr<Rail>> rails() const { return rails_; }
    Rail & first_rail() const { return *rails_.front(); }
    void post(Rail & rail, size_t size);  // sends that many bytes of its next_send_slot()
    void keep(Rail & rail, uint32_t slot, ConstBytes data);  // for receive(), in this order
    bool post_again(Rail & rail, uint32_t slot);
    bool has_failed() const { return error_.has_value(); }
    void set_error(Errc code, std::string text);

private:
    struct Arrived {
        Rail * rail;
        uint32_t slot;
        ConstBytes rest;
    };

    bool can_send() { return rail_for(is_blocked_long_) != nullptr; }
    bool is_ready(Interest interest);
    bool poll(Interest interest, TimePoint deadline, microseconds spin);
    void progress();
    void take_completions(Rail & rail, ibv_cq * queue);
    void complete(Rail & rail, const ibv_wc & completion);
    Result<bool> arm(Interest interest);
    void check_side_channel();
    void check_devices();
    TimePoint next_check();
    void probe_if_silent();

    std::vector<std::unique_ptr<Rail>> rails_;
    const UniqueFd socket_;
    const platform::Waker waker_;

    std::mutex mutex_;  // a waiting thread processes completions of other threads' operations
    std::optional<Error> error_;
    std::deque<Arrived> ready_;
    bool is_blocked_long_ = false;  // the last send() found no rail for data that is longer than a slot
    uint64_t completions_ = 1;
    // Data that takes longer than one slot is on its way: a message since the last one that arrived, or that one, filled its
    // slot.
    bool in_long_transfer_ = false;
    bool has_activity_ = false;  // since last_activity_ was set: the clock is read only before sleeping
    TimePoint last_activity_ = Clock::now();
    std::optional<TimePoint> probes_sent_;  // one over each rail
    size_t probes_left_ = 0;                // that are not acknowledged yet
};

}  // namespace caravan::net::rdma
