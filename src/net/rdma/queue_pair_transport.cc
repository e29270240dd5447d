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

}  // namespace

QueuePairTransport::QueuePairTransport(std::vector<std::unique_ptr<QueuePair>> pairs, UniqueFd socket, platform::Waker waker,
                                       uint32_t signal_share)
    : socket_(std::move(socket)), waker_(std::move(waker)) {
    for (auto & pair : pairs) {
        rails_.push_back(std::make_unique<Rail>(std::move(pair), static_cast<uint32_t>(rails_.size()), signal_share));
    }
}

Result<size_t> QueuePairTransport::send(std::span<const ConstBytes> parts) {
    std::lock_guard lock(mutex_);
    progress();
    size_t left = 0, total = 0, part = 0, offset = 0;
    for (const ConstBytes piece : parts) {
        left += piece.size();
    }
    is_blocked_long_ = false;
    while (left > 0 && !error_) {
        const bool is_long = left > room_for_data(first_rail()).size();
        Rail * const rail = rail_for(is_long);
        if (rail == nullptr) {
            is_blocked_long_ = is_long;
            break;
        }
        const MutableBytes data = room_for_data(*rail);
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
        send_data(*rail, data.first(length));
        total += length;
        left -= length;
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
                release(*message.rail, message.slot);
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
    std::vector<platform::Watch> watches;
    for (const auto & rail : rails_) {
        watches.push_back({rail->events_fd(), platform::readable, 0});
    }
    for (const auto & rail : rails_) {
        watches.push_back({rail->device_events().fd(), platform::readable, 0});
    }
    watches.push_back({socket_.get(), platform::readable, 0});
    watches.push_back({waker_.fd(), platform::readable, 0});
    const auto has_fired = [](const platform::Watch & watch) { return watch.revents != 0; };
    const auto of_devices = std::span(watches).subspan(rails_.size(), rails_.size());
    const platform::Watch & of_socket = watches[watches.size() - 2], & of_waker = watches.back();
    for (;;) {
        const auto armed = arm(interest);
        if (!armed) {
            return std::unexpected(armed.error());
        }
        if (*armed && is_ready(interest)) {
            return true;
        }
        const TimePoint slice = std::min(deadline, next_check());
        const auto ready = platform::poll(watches, poll_timeout_ms(slice));
        if (!ready) {
            return std::unexpected(ready.error());
        }
        for (size_t i = 0; i < rails_.size(); ++i) {
            if (has_fired(watches[i])) {
                rails_[i]->take_event();
            }
        }
        if (has_fired(of_socket)) {
            check_side_channel();
        }
        if (*ready == 0 || std::ranges::any_of(of_devices, has_fired)) {
            check_devices();
        }
        if (has_fired(of_waker)) {
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

void QueuePairTransport::post(Rail & rail, size_t size) {
    in_long_transfer_ |= size == rail.pair().send_slot_size();
    if (auto posted = rail.post(size); !posted) {
        set_error(posted.error().code, posted.error().text);
    }
}

bool QueuePairTransport::post_again(Rail & rail, uint32_t slot) {
    if (auto posted = rail.post_receive(slot); !posted) {
        set_error(posted.error().code, posted.error().text);
        return false;
    }
    return true;
}

void QueuePairTransport::keep(Rail & rail, uint32_t slot, ConstBytes data) {
    ready_.push_back({&rail, slot, data});
    const ConstBytes whole = rail.receive_slot(slot);
    in_long_transfer_ = data.data() + data.size() == whole.data() + whole.size();
}

// Sends first: if one has failed, the receives end too, and their completions do not name the cause.
void QueuePairTransport::progress() {
    for (const auto & rail : rails_) {
        take_completions(*rail, rail->pair().send_cq());
    }
    for (const auto & rail : rails_) {
        take_completions(*rail, rail->pair().receive_cq());
    }
    after_progress();
}

void QueuePairTransport::take_completions(Rail & rail, ibv_cq * queue) {
    std::array<ibv_wc, 16> completions;
    int count = 0;
    while ((count = ibv_poll_cq(queue, static_cast<int>(completions.size()), completions.data())) > 0) {
        has_activity_ = true;
        completions_ += static_cast<uint64_t>(count);
        for (const ibv_wc & completion : std::span(completions).first(static_cast<size_t>(count))) {
            complete(rail, completion);
        }
    }
}

void QueuePairTransport::complete(Rail & rail, const ibv_wc & completion) {
    if (completion.status != IBV_WC_SUCCESS) {
        // Which of both happened, the completion does not tell.
        const char * const why = completion.status == IBV_WC_WR_FLUSH_ERR
                                     ? "the peer violated the rules of its queue pair, or the device stopped it"
                                     : verbs().wc_status_str(completion.status);
        set_error(Errc::io, formatted("the RDMA connection failed: {}{}", why,
                                      rails_.size() > 1 ? " on " + rail.pair().choice().device : ""));
        return;
    }
    if ((completion.wr_id & Rail::send_tag) != 0) {
        rail.complete_sends(completion.wr_id & ~Rail::send_tag);
        return;
    }
    if (completion.wr_id == set_up_send_id) {
        return;
    }
    if (completion.wr_id == Rail::probe_id) {
        if (--probes_left_ == 0) {
            probes_sent_.reset();
        }
        return;
    }
    const auto slot = static_cast<uint32_t>(completion.wr_id);
    const ConstBytes bytes = rail.receive_slot(slot);
    if (completion.byte_len > bytes.size()) {
        set_error(Errc::protocol, malformed);
        return;
    }
    arrive(rail, slot, bytes.first(completion.byte_len));
}

// An event for the next completed send only if something waits for it: a send slot, a probe, or the choice of a rail.
Result<bool> QueuePairTransport::arm(Interest interest) {
    bool requested = false;
    for (const auto & rail : rails_) {
        bool of_sends = interest.write && rails_.size() > 1;
        {
            std::lock_guard lock(mutex_);
            of_sends |= !rail->has_send_slot() || probes_sent_;
        }
        const auto armed = rail->arm(of_sends);
        if (!armed) {
            return armed;
        }
        requested |= *armed;
    }
    return requested;
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

void QueuePairTransport::check_devices() {
    for (const auto & rail : rails_) {
        if (const auto reason = rail->device_events().take(Clock::now())) {
            std::lock_guard lock(mutex_);
            progress();
            set_error(Errc::io, *reason);
        }
    }
}

// When a wait must look at the devices, or send or check probes.
TimePoint QueuePairTransport::next_check() {
    std::lock_guard lock(mutex_);
    if (std::exchange(has_activity_, false)) {
        last_activity_ = Clock::now();
    }
    TimePoint next = probes_sent_ ? *probes_sent_ + tunable::ring_probe_patience : last_activity_ + tunable::ring_probe_after;
    for (const auto & rail : rails_) {
        next = std::min(next, rail->device_events().deadline());
    }
    return next;
}

void QueuePairTransport::probe_if_silent() {
    std::lock_guard lock(mutex_);
    progress();
    const TimePoint now = Clock::now();
    if (probes_sent_ && now >= *probes_sent_ + tunable::ring_probe_patience) {
        set_error(Errc::timed_out, "no reply to an RDMA probe: the peer or the network path is down");
    } else if (!probes_sent_ && may_probe() && now >= last_activity_ + tunable::ring_probe_after) {
        probes_sent_ = now;
        probes_left_ = rails_.size();
        for (const auto & rail : rails_) {
            if (auto posted = rail->post_probe(); !posted) {
                set_error(posted.error().code, posted.error().text);
            }
        }
    }
}

}  // namespace caravan::net::rdma
