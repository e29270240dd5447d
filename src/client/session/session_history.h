// The sessions with one server, beyond their end: statistics of the latest one, and the notification of losses.
//
// Threads: any. Shared by RemoteServer and its sessions.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>

#include "base/error.h"
#include "client/observe/stats.h"

namespace caravan::client {

class Connection;

struct SessionRecord {
    enum class State { open, closed, lost };

    uint64_t number = 0;  // of the session, from 1
    State state = State::open;
    SessionStats stats;  // without served_ns
};

class SessionHistory {
public:
    // Locks are held while it runs: it must not use this object or a session.
    using LossCallback = std::function<void(const Error &)>;

    // A session begins. Returns its number.
    uint64_t begin();
    // It is open. The history does not keep it alive.
    void set_live(std::weak_ptr<Connection> session);
    // It was lost. Call this once for a session.
    void notify_loss(const Error & error);
    // It ended, whether it was lost or not.
    void end(SessionRecord last);

    // Of the live session, or else of the last one that ended. Empty if there was none. May end the session, if its other
    // owners release it meanwhile.
    std::optional<SessionRecord> latest();

    // The callback for later losses; may be empty. The last one does not run any more when this returns.
    void set_loss_callback(LossCallback callback);

private:
    std::mutex mutex_;
    uint64_t sessions_ = 0;
    std::weak_ptr<Connection> live_;
    std::optional<SessionRecord> last_;

    std::mutex callback_mutex_;  // held while the callback runs
    LossCallback callback_;
};

}  // namespace caravan::client
