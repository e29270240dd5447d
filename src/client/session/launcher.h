// Launches graphs of one session.
//
// The server executes commands in order. If the program is expected to read and await the result next, a launch returns when
// the result begins to arrive, and so fails if the server is lost or cannot compute the graph. Any other launch returns once
// it is queued. launch_prediction.h decides which. Threads: any.
#pragma once

#include <optional>
#include <string>

#include "client/observe/session_recorder.h"
#include "client/session/buffer_table.h"
#include "client/session/command_queue.h"

namespace caravan::client {

class ServerTransfers;

class Launcher {
public:
    using Lock = CommandQueue::Lock;

    Launcher(CommandQueue & queue, BufferTable & buffers, ServerTransfers & transfers, SessionRecorder & recorder)
        : queue_(queue), buffers_(buffers), transfers_(transfers), recorder_(recorder) {}

    // Logs why the launch failed.
    ggml_status launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of);

    // Call this when the program is about to receive data: it may be absent, because a launch failed after it was reported as
    // successful. If the cause is a lost server at the other end of a link, this logs that loss, or ends the program. Requires
    // the lock.
    void investigate_failure(Lock & lock);

private:
    bool is_reachable(Lock & lock);
    ggml_status confirm(Lock & lock, const ResultRead & read);
    ggml_status fail_launch(Lock & lock, const std::string & why);

    CommandQueue & queue_;
    BufferTable & buffers_;
    ServerTransfers & transfers_;
    SessionRecorder & recorder_;
    bool is_investigated_ = false;  // the launch failure that was not taken yet
};

}  // namespace caravan::client
