// Asynchronous events of an RDMA device. They report the loss of the device or of its port at once; without them, a waiting
// end would notice it by its next probe, after 5 to 15 s. One thread.
#pragma once

#include <optional>
#include <string>

#include "base/clock.h"
#include "net/rdma/verbs.h"

namespace caravan::net::rdma {

// The verbs that DeviceEvents calls; tests replace them.
struct EventCalls {
    int (*get_async_event)(ibv_context *, ibv_async_event *);
    void (*ack_async_event)(ibv_async_event *);
};
EventCalls real_event_calls();

class DeviceEvents {
public:
    // `port`: the one in use. `context` must outlive this; its descriptor of events becomes non-blocking.
    DeviceEvents(ibv_context & context, uint8_t port, const EventCalls & calls = real_event_calls());

    int fd() const { return context_.async_fd; }  // readable: call take()
    // Takes all pending events. Returns why the device cannot be used any more.
    std::optional<std::string> take(TimePoint now);
    // When to call take() even without an event.
    TimePoint deadline() const { return port_deadline_; }

private:
    ibv_context & context_;
    const uint8_t port_;
    const EventCalls calls_;
    TimePoint port_deadline_ = no_deadline;
};

}  // namespace caravan::net::rdma
