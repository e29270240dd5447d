// How a ResumableTransport loses its connection and continues over another one. resumable_transport.cc has the data path.
#include <algorithm>
#include <utility>

#include "base/counted.h"
#include "base/log.h"
#include "net/resume/resumable_transport.h"
#include "tunables/resume.h"

namespace caravan::net {
namespace {

double in_seconds(std::chrono::duration<double> time) { return time.count(); }

}  // namespace

void ResumableTransport::drop_connection(bool is_broken) {
    inner_->wake();
    if (is_broken) {
        inner_->break_off();
    }
    inner_.reset();
    writer_.on_lost();
    reader_.on_lost();
    lost_at_ = Clock::now();
}

void ResumableTransport::on_connection_lost(const std::shared_ptr<Transport> & transport, Error error) {
    if (inner_ != transport || error_) {
        return;  // already replaced
    }
    drop_connection();
    if (policy_.peer_has_ended()) {
        error = {Errc::closed, "the peer closed the connection"};
    }
    const auto grace = policy_.on_lost(error.code, reader_.consumed() + writer_.acknowledged(), lost_at_);
    if (!grace) {
        close_with(std::move(error));
        return;
    }
    loss_reason_ = error.text;
    attempt_error_.clear();
    log_debug("connection to {} lost ({}); waiting up to {:g} s for a new one", options_.name, loss_reason_,
              in_seconds(*grace));
    changed_.notify_all();
}

// Continues the stream over this connection from `received`, the position that the peer has reached.
Result<> ResumableTransport::continue_over(std::unique_ptr<Transport> transport, uint64_t received) {
    if (!writer_.resume(received, reader_.consumed())) {
        close_with({Errc::protocol, "the peer resumed at an invalid position"});
        return std::unexpected(*error_);
    }
    const TimePoint now = Clock::now();
    inner_ = std::move(transport);
    kind_ = inner_->kind();
    queue_pairs_ = inner_->queue_pairs();
    const bool is_first_upgrade = loss_reason_.empty() && !upgrade_.had_rdma();
    replacements_ += is_first_upgrade ? 0 : 1;
    reader_.resume();
    policy_.on_reconnected(now);
    if (is_first_upgrade) {
        log_debug("the connection to {} switches to RDMA", options_.name);
    } else if (loss_reason_.empty()) {
        log_warning("connection to {} uses RDMA again, after {:.1f} s", options_.name,
                    in_seconds(upgrade_.lost_for(now)));
    } else {
        log_warning("connection to {} lost ({}); reconnected over {} after {:.1f} s, {} retransmitted", options_.name,
                    loss_reason_, text_of(kind_), in_seconds(now - lost_at_),
                    counted(writer_.unsent_size(), "byte"));
    }
    upgrade_.on_connected(kind_ == TransportKind::rdma, now);
    pump_out();
    changed_.notify_all();
    return {};
}

Result<> ResumableTransport::take_over(std::unique_ptr<Transport> transport, wire::ResumeRequest request) {
    Lock lock(mutex_);
    if (error_) {
        return std::unexpected(*error_);
    }
    const uint32_t attempt = request.attempt;
    if (attempt <= last_attempt_) {
        return fail(Errc::protocol, "stale attempt to resume");
    }
    last_attempt_ = attempt;
    if (inner_) {
        // The peer has detected a loss first, or returns to RDMA.
        loss_reason_ = transport->kind() == TransportKind::rdma && kind_ != TransportKind::rdma ? "" : "detected by the peer";
        drop_connection();
    }
    reader_.drop_stash();
    struct {
        uint64_t size = sizeof(wire::ResumeReply);
        wire::ResumeReply reply;
    } reply{.reply = {reader_.consumed()}};
    writer_.queue(const_bytes(&reply, sizeof reply));
    return continue_over(std::move(transport), request.received);
}

void ResumableTransport::watch_peer(bool is_watched) {
    Lock lock(mutex_);
    policy_.watch_peer(is_watched);
}

void ResumableTransport::peer_ended() {
    Lock lock(mutex_);
    policy_.peer_ended();  // data sent before is still received
    if (!inner_) {
        close_with({Errc::closed, "the peer closed the connection"});
    }
}

// Returns when connected, closed, woken, or at the deadline.
void ResumableTransport::wait_reconnected(Lock & lock, TimePoint deadline) {
    while (!inner_ && !error_ && !std::exchange(woken_, false) && Clock::now() < deadline) {
        if (options_.reconnect && !is_reconnecting_) {
            try_reconnect(lock, deadline);
            continue;
        }
        changed_.wait_until(lock, std::min(deadline, policy_.give_up_at()));
        if (!inner_ && !is_reconnecting_ && Clock::now() >= policy_.give_up_at()) {
            close_with({Errc::timed_out,
                        formatted("connection lost ({}), and {} did not reconnect", loss_reason_, options_.name)});
        }
    }
}

// Makes one attempt, or waits for its time. Releases the lock meanwhile.
void ResumableTransport::try_reconnect(Lock & lock, TimePoint deadline) {
    const TimePoint now = Clock::now();
    if (now < policy_.next_attempt_at()) {
        changed_.wait_until(lock, std::min({deadline, policy_.next_attempt_at(), policy_.give_up_at()}));
        return;
    }
    if (now >= policy_.give_up_at()) {
        close_with({Errc::timed_out, formatted("connection lost ({}), and reconnecting failed for {:g} s{}{}", loss_reason_,
                                        in_seconds(options_.grace), attempt_error_.empty() ? "" : ": ", attempt_error_)});
        return;
    }
    resume(lock, nullptr);
}

// Requests the peer to continue the stream over another connection: `over`, or a new one. Releases the lock meanwhile.
void ResumableTransport::resume(Lock & lock, std::unique_ptr<Transport> over) {
    is_reconnecting_ = true;
    // The peer retransmits what was received and not consumed.
    reader_.drop_stash();
    const bool may_restart = reader_.consumed() == 0 && writer_.acknowledged() == 0;
    Attempt attempt{{reader_.consumed(), ++last_attempt_},
                    may_restart,
                    Clock::now() + tunable::reconnect_attempt_timeout,
                    std::move(over)};
    lock.unlock();
    auto again = options_.reconnect(std::move(attempt));
    lock.lock();
    is_reconnecting_ = false;
    changed_.notify_all();
    if (error_) {
        return;
    }
    if (again) {
        (void)continue_over(std::move(again->transport), again->received);
        return;
    }
    const Error & error = again.error();
    log_debug("reconnecting to {} failed: {}", options_.name, error.text);
    if (error.code == Errc::closed || error.code == Errc::unavailable) {
        close_with({error.code, formatted("{}; {}", loss_reason_, error.text)});
        return;
    }
    attempt_error_ = error.text;
    policy_.on_attempt_failed(Clock::now());
}

void ResumableTransport::begin_upgrade(std::function<void(const Error *)> done) {
    Lock lock(mutex_);
    if (options_.open_first_rdma && !on_first_upgrade_ && !upgrade_.had_rdma()) {
        on_first_upgrade_ = std::move(done);
        upgrade_.request(Clock::now());
        changed_.notify_all();
    }
}

void ResumableTransport::await_upgrade(TimePoint deadline) {
    Lock lock(mutex_);
    changed_.wait_until(lock, deadline, [this] { return !on_first_upgrade_ || error_ || stopping_; });
}

void ResumableTransport::end_first_upgrade(Lock & lock, const Error * why_not) {
    if (const auto done = std::exchange(on_first_upgrade_, {})) {
        changed_.notify_all();
        lock.unlock();
        done(why_not);
        lock.lock();
    }
}

bool ResumableTransport::is_upgrade_due() const {
    const OpenRdma & open = upgrade_.had_rdma() ? options_.open_rdma : options_.open_first_rdma;
    return inner_ != nullptr && open && Clock::now() >= upgrade_.next_attempt_at();
}

// Switches to RDMA. The present connection is used until the other one is open, and stays open until the peer has taken that
// over: the peer could mistake its close for the end of this process.
void ResumableTransport::try_upgrade(Lock & lock) {
    const auto before = inner_;
    lock.unlock();
    const OpenRdma & open = upgrade_.had_rdma() ? options_.open_rdma : options_.open_first_rdma;
    auto opened = open(Clock::now() + tunable::upgrade_attempt_timeout, stop_upgrade_.get_token());
    lock.lock();
    if (stopping_ || error_) {
        if (!opened) {
            end_first_upgrade(lock, &opened.error());
        }
        return;
    }
    if (!opened) {
        log_debug("switching to RDMA with {} failed: {}", options_.name, opened.error().text);
        upgrade_.on_attempt_failed(Clock::now());
        end_first_upgrade(lock, &opened.error());
        return;
    }
    if (inner_ != before) {
        upgrade_.on_interrupted(Clock::now());
        return;
    }
    drop_connection(false);
    (void)policy_.on_lost(Errc::io, reader_.consumed() + writer_.acknowledged(), lost_at_);
    loss_reason_.clear();
    resume(lock, std::move(*opened));
    if (!inner_) {
        loss_reason_ = "RDMA failed while the session switched to it";
        upgrade_.on_interrupted(Clock::now());
    } else {
        end_first_upgrade(lock, nullptr);
    }
    lock.unlock();
    before->break_off();
    lock.lock();
}

// The active end's thread: detects the loss of a connection that no other thread uses.
void ResumableTransport::run_keeper() {
    Lock lock(mutex_);
    while (!stopping_ && !error_) {
        if (inner_) {
            if (options_.while_connected) {
                lock.unlock();
                options_.while_connected();
                lock.lock();
            }
            if (is_upgrade_due()) {
                try_upgrade(lock);
                continue;
            }
            changed_.wait_for(lock, options_.pace.idle_check, [this] { return stopping_ || !inner_ || is_upgrade_due(); });
            if (inner_ && waiting_ == 0 && !stopping_ && !is_upgrade_due()) {
                const auto inner = inner_;
                keeper_polls_ = true;
                lock.unlock();
                const auto ready = inner->wait({.read = true}, Clock::now(), microseconds{0});
                lock.lock();
                keeper_polls_ = false;
                changed_.notify_all();
                if (!ready) {
                    on_connection_lost(inner, ready.error());
                } else if (inner_ == inner && waiting_ == 0 && *ready) {
                    pump_in();
                }
                pump_out();
                probe();
            }
        } else if (waiting_ == 0 && !is_reconnecting_) {
            try_reconnect(lock, Clock::now() + options_.pace.idle_check);
        } else {
            changed_.wait_for(lock, options_.pace.idle_check);
        }
    }
    if (error_ && !stopping_ && when_lost_) {
        const Error error = *error_;
        lock.unlock();
        when_lost_(error);
    }
}

}  // namespace caravan::net
