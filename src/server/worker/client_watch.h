// A thread that watches, while the session's thread computes, whether the client has left, and receives the supervisor's
// messages.
#pragma once

#include <functional>
#include <memory>
#include <mutex>
#include <thread>
#include <vector>

#include "base/clock.h"
#include "platform/unique_fd.h"
#include "platform/waker.h"
#include "server/worker/resumption_table.h"
#include "tunables/session.h"

namespace caravan::server {

class ClientWatch {
public:
    // Called by the thread.
    struct Handlers {
        std::function<void(ClientWatch &)> on_supervisor;  // a message of the supervisor, or its exit, can be received
        // The client has left: its process has exited or has closed the connection. The session still reads commands that were
        // sent before. Not called while a session that can be resumed has lost its connection.
        std::function<void()> on_left;
        std::function<void()> on_overdue;  // the watch has not ended `farewell` after on_left
    };
    // `client`: a duplicate of the client's socket. `control`: the line to the supervisor. `token`: resumes the session; 0: it
    // cannot be resumed. `streams` must outlive this. Errc::io if the thread cannot be woken up.
    static Result<std::unique_ptr<ClientWatch>> start(UniqueFd client, int control, uint64_t token, ResumptionTable & streams,
                                                      Handlers handlers, milliseconds farewell = tunable::session_farewell);
    ~ClientWatch();
    ClientWatch(const ClientWatch &) = delete;

    // Takes a connection whose close shows that the process of a peer has exited: this session's client, or a server with a
    // link. Replaces an earlier lifeline of the same token. Only for on_supervisor.
    void add_lifeline(uint64_t token, UniqueFd socket);

private:
    struct Lifeline {
        uint64_t token;
        UniqueFd socket;
    };

    ClientWatch(UniqueFd client, int control, uint64_t token, ResumptionTable & streams, Handlers handlers,
                milliseconds farewell, platform::Waker stop, platform::Waker resumed);
    void watch();
    void take_resumed_connection();
    bool has_left(short events);
    void end_session();
    void lifeline_ended(size_t index, short events);

    // For the thread only.
    UniqueFd client_;  // none while the connection of a session that can be resumed is broken
    std::vector<Lifeline> lifelines_;
    bool has_exited_ = false;  // the client's process, as its lifeline shows

    const int control_;
    const uint64_t token_;
    ResumptionTable & streams_;
    const Handlers handlers_;
    const milliseconds farewell_;
    const platform::Waker stop_, resumed_;
    std::mutex mutex_;
    UniqueFd next_client_;  // guarded by mutex_: duplicate of the socket that resumed the session
    std::thread thread_;
};

}  // namespace caravan::server
