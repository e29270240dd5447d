#include "net/rdma/rail.h"

#include <algorithm>
#include <utility>

#include "base/formatted.h"
#include "platform/socket.h"

namespace caravan::net::rdma {

Rail::Rail(std::unique_ptr<QueuePair> pair, uint32_t index, uint32_t signal_share)
    : pair_(std::move(pair)),
      index_(index),
      signal_every_(std::max(1u, pair_->geometry().depth / signal_share)),
      device_events_(pair_->context(), pair_->choice().port),
      sends_{pair_->send_cq()},
      receives_{pair_->receive_cq()},
      fills_slot_(pair_->geometry().depth) {
    platform::set_non_blocking(pair_->channel()->fd, true);
}

Rail::~Rail() {
    for (const Events & events : {sends_, receives_}) {
        if (events.unacknowledged > 0) {
            verbs().ack_cq_events(events.queue, events.unacknowledged);
        }
    }
}

MutableBytes Rail::next_send_slot() {
    return pair_->send_slot(static_cast<uint32_t>(posted_ % depth())).first(pair_->send_slot_size());
}

Result<> Rail::post(size_t size) {
    const MutableBytes message = next_send_slot().first(size);
    ibv_sge sge{reinterpret_cast<uint64_t>(message.data()), static_cast<uint32_t>(message.size()), pair_->lkey()};
    const bool fills_slot = size == pair_->send_slot_size();
    ++posted_;
    fills_slot_[posted_ % depth()] = fills_slot;
    slots_in_flight_ += fills_slot ? 1 : 0;
    ibv_send_wr request{};
    request.wr_id = send_tag | posted_;
    request.sg_list = &sge;
    request.num_sge = 1;
    request.opcode = IBV_WR_SEND;
    if (message.size() <= pair_->max_inline()) {
        request.send_flags |= IBV_SEND_INLINE;
    }
    if (fills_slot || posted_ % signal_every_ == 0) {
        request.send_flags |= IBV_SEND_SIGNALED;
    }
    return post_request(request);
}

void Rail::complete_sends(uint64_t number) {
    while (completed_ < number) {
        slots_in_flight_ -= fills_slot_[++completed_ % depth()] ? 1 : 0;
    }
}

Result<> Rail::post_probe() {
    ibv_send_wr request{};
    request.wr_id = probe_id;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = IBV_SEND_SIGNALED;
    return post_request(request);
}

Result<> Rail::post_request(ibv_send_wr & request) {
    ibv_send_wr * bad = nullptr;
    if (const int error = ibv_post_send(pair_->qp(), &request, &bad); error != 0) {
        return fail(Errc::io, "posting a send failed: {}", errno_text(error));
    }
    return {};
}

Result<bool> Rail::arm(bool of_sends) {
    bool requested = false;
    for (Events * events : {&receives_, of_sends ? &sends_ : nullptr}) {
        if (events != nullptr && !events->armed) {
            if (ibv_req_notify_cq(events->queue, 0) != 0) {
                return fail(Errc::io, "cannot request completion events");
            }
            events->armed = requested = true;
        }
    }
    return requested;
}

void Rail::take_event() {
    ibv_cq * queue = nullptr;
    void * context = nullptr;
    if (verbs().get_cq_event(pair_->channel(), &queue, &context) == 0) {
        Events & events = queue == sends_.queue ? sends_ : receives_;
        events.armed = false;
        if (++events.unacknowledged == tunable::ring_ack_batch) {
            verbs().ack_cq_events(queue, std::exchange(events.unacknowledged, 0));
        }
    }
}

}  // namespace caravan::net::rdma
