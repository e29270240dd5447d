// Reports the loss of a session to the user, once, also while the program is idle. A server program that goes on after a loss
// fails every later request: the log repeats the reason for these, now and then.
//
// Threads: any. Shared by the session and its transport, whose thread detects a loss while the connection is idle.
#pragma once

#include <atomic>
#include <memory>

#include "base/clock.h"
#include "base/error.h"
#include "net/endpoint.h"

namespace caravan::client {

class SessionHistory;

class LossReport {
public:
    // `is_needed`: the program depends on the session. `history` is notified too; may be null.
    LossReport(net::Endpoint endpoint, bool is_needed, std::shared_ptr<SessionHistory> history)
        : endpoint_(std::move(endpoint)), history_(std::move(history)), is_needed_(is_needed) {}

    // With GGML_RPC_ON_LOSS=exit this ends the program instead, and no thread returns from here: the program receives no
    // failure before it ends.
    void report(const Error & error);
    // Logs the reason again for another graph that cannot be computed, if it was not logged within loss_repeat_interval.
    void repeat(const Error & error, TimePoint now);
    // The program no longer depends on the session.
    void disable() { is_needed_ = false; }

private:
    const net::Endpoint endpoint_;
    const std::shared_ptr<SessionHistory> history_;
    std::atomic<bool> is_needed_;
    std::atomic<bool> is_reported_ = false;
    std::atomic<TimePoint> logged_at_{no_deadline};  // no_deadline: never
};

}  // namespace caravan::client
