#include "net/rdma/device_events.h"

#include <cerrno>

#include "base/formatted.h"
#include "platform/socket.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {

EventCalls real_event_calls() { return {verbs().get_async_event, verbs().ack_async_event}; }

DeviceEvents::DeviceEvents(ibv_context & context, uint8_t port, const EventCalls & calls)
    : context_(context), port_(port), calls_(calls) {
    platform::set_non_blocking(fd(), true);
}

std::optional<std::string> DeviceEvents::take(TimePoint now) {
    constexpr int max_events = 64;  // in one call
    for (int taken = 0; taken < max_events; ++taken) {
        ibv_async_event event{};
        if (calls_.get_async_event(&context_, &event) != 0) {
            // A device that was removed has no events left, but a readable descriptor.
            if (errno != EAGAIN && errno != EINTR) {
                return formatted("the RDMA device is gone ({})", errno_text(errno));
            }
            break;
        }
        calls_.ack_async_event(&event);
        switch (event.event_type) {
            case IBV_EVENT_DEVICE_FATAL: return "the RDMA device reports a fatal error";
            case IBV_EVENT_QP_FATAL:
            case IBV_EVENT_QP_REQ_ERR:
            case IBV_EVENT_QP_ACCESS_ERR: return "the RDMA device reports an error of the queue pair";
            case IBV_EVENT_CQ_ERR: return "the RDMA device reports an error of the completion queue";
            case IBV_EVENT_PORT_ERR:
                if (event.element.port_num == port_ && port_deadline_ == no_deadline) {
                    port_deadline_ = now + tunable::rdma_port_patience;
                }
                break;
            case IBV_EVENT_PORT_ACTIVE:
                if (event.element.port_num == port_) {
                    port_deadline_ = no_deadline;
                }
                break;
            default: break;
        }
    }
    if (now >= port_deadline_) {
        return formatted("port {} of the RDMA device has been down for {} s", port_,
                         tunable::rdma_port_patience.count());
    }
    return {};
}

}  // namespace caravan::net::rdma
