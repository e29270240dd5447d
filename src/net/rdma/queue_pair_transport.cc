#include "net/rdma/queue_pair_transport.h"

#include <algorithm>
#include <array>
#include <thread>
#include <utility>

#include "base/formatted.h"
#include "platform/poll.h"
#include "platform/socket.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {
namespace {

using platform::Moved;

constexpr uint64_t send_tag = uint64_t{1} << 63;
constexpr uint64_t probe_tag = uint64_t{1} << 62;

}  // namespace

QueuePairTransport::QueuePairTransport(std::unique_ptr<QueuePair> pair, UniqueFd socket, platform::Waker waker,
                                       uint32_t signal_share)
    : pair_(std::move(pair)),
      socket_(std::move(socket)),
      waker_(std::move(waker)),
      events_(pair_->context(), pair_->choice().port),
      depth_(pair_->geometry().depth),
      sends_{pair_->send_cq()},
      receives_{pair_->receive_cq()},
      signal_every_(std::max(1u, depth_ / signal_share)) {
    platform::set_non_blocking(pair_->channel()->fd, true);
}

QueuePairTransport::~QueuePairTransport() {
    for (const Events & events : {sends_, receives_}) {
        if (events.unacknowledged > 0) {
            verbs().ack_cq_events(events.queue, events.unacknowledged);
        }
    }
}

Result<size_t> QueuePairTransport::send(std::span<const ConstBytes> parts) {
    std::lock_guard lock(mutex_);
    progress();
    size_t total = 0, part = 0, offset = 0;
    while (part < parts.size() && !error_ && can_send()) {
        const MutableBytes data = room_for_data();
        size_t length = 0;
        while (part < parts.size() && length < data.size()) {
            const ConstBytes rest = parts[part].subspan(offset);
            const size_t step = std::min(rest.size(), data.size() - length);
            std::ranges::copy(rest.first(step), data.data() + length);
            length += step;
            offset += step;
            if (offset == parts[part].size()) {
                ++part;
                offset = 0;
            }
        }
        if (length == 0) {
            break;
        }
        send_data(data.first(length));
        total += length;
    }
    if (error_ && total == 0) {
        return std::unexpected(*error_);
    }
    return total;
}

Result<size_t> QueuePairTransport::receive(std::span<const MutableBytes> parts) {
    std::lock_guard lock(mutex_);
    if (ready_.empty()) {
        progress();
    }
    size_t total = 0;
    for (MutableBytes dest : parts) {
        while (!dest.empty() && !ready_.empty()) {
            Arrived & message = ready_.front();
            const size_t step = std::min(dest.size(), message.rest.size());
            std::ranges::copy(message.rest.first(step), dest.begin());
            dest = dest.subspan(step);
            message.rest = message.rest.subspan(step);
            total += step;
            if (message.rest.empty()) {
                release(message.slot);
                ready_.pop_front();
            }
        }
    }
    if (total == 0 && error_) {
        return std::unexpected(*error_);
    }
    return total;
}

Result<bool> QueuePairTransport::wait(Interest interest, TimePoint deadline, microseconds spin) {
    if (is_ready(interest)) {
        return true;
    }
    if (spin.count() > 0 && poll(interest, deadline, spin)) {
        return true;
    }
    for (;;) {
        const auto armed = arm();
        if (!armed) {
            return std::unexpected(armed.error());
        }
        if (*armed && is_ready(interest)) {
            return true;
        }
        const TimePoint slice = std::min({deadline, next_probe(), events_.deadline()});
        std::array<platform::Watch, 4> watches{{{pair_->channel()->fd, platform::readable, 0},
                                                {socket_.get(), platform::readable, 0},
                                                {waker_.fd(), platform::readable, 0},
                                                {events_.fd(), platform::readable, 0}}};
        const auto ready = platform::poll(watches, poll_timeout_ms(slice));
        if (!ready) {
            return std::unexpected(ready.error());
        }
        if (watches[0].revents != 0) {
            take_event();
        }
        if (watches[1].revents != 0) {
            check_side_channel();
        }
        if (watches[3].revents != 0 || *ready == 0) {
            check_device();
        }
        if (watches[2].revents != 0) {
            waker_.clear();
            return true;
        }
        if (*ready == 0) {
            probe_if_silent();
        }
        if (is_ready(interest)) {  // also after an error
            return true;
        }
        if (*ready == 0 && Clock::now() >= deadline) {
            return false;
        }
    }
}

void QueuePairTransport::wake() { waker_.wake(); }

void QueuePairTransport::break_off() { platform::reset_connection(socket_.get()); }

bool QueuePairTransport::is_ready(Interest interest) {
    std::lock_guard lock(mutex_);
    progress();
    return error_ || (interest.read && !ready_.empty()) || (interest.write && can_send());
}

// Polls for `spin`, and in a long transfer for ring_transfer_spin after each completion. True if an operation may make
// progress.
bool QueuePairTransport::poll(Interest interest, TimePoint deadline, microseconds spin) {
    TimePoint now = Clock::now(), end = now + spin;
    for (uint64_t seen = 0; now < std::min(end, deadline); now = Clock::now()) {
        std::this_thread::yield();
        if (is_ready(interest)) {
            return true;
        }
        std::lock_guard lock(mutex_);
        const bool is_long = (interest.read && in_long_transfer_) || (interest.write && !can_send());
        if (is_long && seen != completions_) {
            seen = completions_;
            end = std::max(end, now + tunable::ring_transfer_spin);
        }
    }
    return false;
}

void QueuePairTransport::set_error(Errc code, std::string text) {
    if (!error_) {
        error_ = Error{code, std::move(text)};
    }
}

MutableBytes QueuePairTransport::next_send_slot() {
    return pair_->send_slot(static_cast<uint32_t>(posted_ % depth_)).first(pair_->send_slot_size());
}

void QueuePairTransport::post(size_t size) {
    const MutableBytes message = next_send_slot().first(size);
    ibv_sge sge{reinterpret_cast<uint64_t>(message.data()), static_cast<uint32_t>(message.size()), pair_->lkey()};
    ibv_send_wr request{};
    request.wr_id = send_tag | ++posted_;
    request.sg_list = &sge;
    request.num_sge = 1;
    request.opcode = IBV_WR_SEND;
    if (message.size() <= pair_->max_inline()) {
        request.send_flags |= IBV_SEND_INLINE;
    }
    const bool fills_slot = size == pair_->send_slot_size();
    in_long_transfer_ |= fills_slot;
    if (fills_slot || posted_ % signal_every_ == 0) {
        request.send_flags |= IBV_SEND_SIGNALED;
    }
    post_request(request);
}

void QueuePairTransport::post_request(ibv_send_wr & request) {
    ibv_send_wr * bad = nullptr;
    if (const int error = ibv_post_send(pair_->qp(), &request, &bad); error != 0) {
        set_error(Errc::io, formatted("posting a send failed: {}", errno_text(error)));
    }
}

void QueuePairTransport::release(uint32_t slot) { post_again(slot); }

bool QueuePairTransport::post_again(uint32_t slot) {
    if (auto posted = pair_->post_receive(slot); !posted) {
        set_error(posted.error().code, posted.error().text);
        return false;
    }
    return true;
}

void QueuePairTransport::keep(uint32_t slot, ConstBytes data) {
    ready_.push_back({slot, data});
    const ConstBytes whole = pair_->receive_slot(slot);
    in_long_transfer_ = data.data() + data.size() == whole.data() + whole.size();
}

// Sends first: if one has failed, the receives end too, and their completions do not name the cause.
void QueuePairTransport::progress() {
    take_completions(pair_->send_cq());
    take_completions(pair_->receive_cq());
    after_progress();
}

void QueuePairTransport::take_completions(ibv_cq * queue) {
    std::array<ibv_wc, 16> completions;
    int count = 0;
    while ((count = ibv_poll_cq(queue, static_cast<int>(completions.size()), completions.data())) > 0) {
        has_activity_ = true;
        completions_ += static_cast<uint64_t>(count);
        for (const ibv_wc & completion : std::span(completions).first(static_cast<size_t>(count))) {
            complete(completion);
        }
    }
}

void QueuePairTransport::complete(const ibv_wc & completion) {
    if (completion.status != IBV_WC_SUCCESS) {
        set_error(Errc::io, formatted("the RDMA connection failed: {}", verbs().wc_status_str(completion.status)));
        return;
    }
    if ((completion.wr_id & send_tag) != 0) {
        completed_ = completion.wr_id & ~send_tag;
        return;
    }
    if (completion.wr_id == set_up_send_id) {
        return;
    }
    if ((completion.wr_id & probe_tag) != 0) {
        probe_sent_.reset();
        return;
    }
    const auto slot = static_cast<uint32_t>(completion.wr_id);
    const ConstBytes bytes = pair_->receive_slot(slot);
    if (completion.byte_len > bytes.size()) {
        set_error(Errc::protocol, malformed);
        return;
    }
    arrive(slot, bytes.first(completion.byte_len));
}

// Requests an event for the next message, and for the next completed send only if something waits for it: a send slot, or a
// probe. Each request yields one event. True if there was a new request: completions may have come before it.
Result<bool> QueuePairTransport::arm() {
    bool of_sends = false;
    {
        std::lock_guard lock(mutex_);
        of_sends = !has_send_slot() || probe_sent_;
    }
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

void QueuePairTransport::take_event() {
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

void QueuePairTransport::check_side_channel() {
    const Moved got = platform::peek(socket_.get());
    if (got.status == Moved::Status::would_block) {
        return;
    }
    std::lock_guard lock(mutex_);
    progress();
    const bool is_data = got.status == Moved::Status::some;
    set_error(is_data ? Errc::protocol : got.status == Moved::Status::closed ? Errc::closed : Errc::reset,
              is_data ? "the peer sent data over TCP after switching to RDMA" : "the peer closed the connection");
}

void QueuePairTransport::check_device() {
    const auto reason = events_.take(Clock::now());
    if (reason) {
        std::lock_guard lock(mutex_);
        progress();
        set_error(Errc::io, *reason);
    }
}

TimePoint QueuePairTransport::next_probe() {
    std::lock_guard lock(mutex_);
    if (std::exchange(has_activity_, false)) {
        last_activity_ = Clock::now();
    }
    return probe_sent_ ? *probe_sent_ + tunable::ring_probe_patience : last_activity_ + tunable::ring_probe_after;
}

void QueuePairTransport::probe_if_silent() {
    std::lock_guard lock(mutex_);
    progress();
    const TimePoint now = Clock::now();
    if (probe_sent_ && now >= *probe_sent_ + tunable::ring_probe_patience) {
        set_error(Errc::timed_out, "no reply to an RDMA probe: the peer or the network path is down");
    } else if (!probe_sent_ && may_probe() && now >= last_activity_ + tunable::ring_probe_after) {
        ibv_send_wr request{};
        request.wr_id = probe_tag;
        request.opcode = IBV_WR_RDMA_WRITE;
        request.send_flags = IBV_SEND_SIGNALED;
        probe_sent_ = now;
        post_request(request);
    }
}

}  // namespace caravan::net::rdma
