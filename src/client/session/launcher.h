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

    Launcher(CommandQueue & queue, BufferTable & buffers, ServerTransfers & transfers, SessionRecorder & recorder,
             milliseconds idle_before_probe)
        : queue_(queue), buffers_(buffers), transfers_(transfers), recorder_(recorder),
          idle_before_probe_(idle_before_probe) {}

    // Logs why the launch failed.
    ggml_status launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of);

    // From now on, a launch whose result is requested with it returns at once; await_result() waits.
    // `ranks`: their servers, for messages.
    void set_grouped(std::string ranks) { is_grouped_ = true, ranks_ = std::move(ranks); }
    // Waits until the result begins to arrive that the last launch requested, if any. Takes the lock.
    ggml_status await_result();

    // Call this when the program is about to receive data: it may be absent, because a launch failed after it was reported as
    // successful. If the cause is a lost server at the other end of a link, this logs that loss, or ends the program. Requires
    // the lock.
    void investigate_failure(Lock & lock);

private:
    bool is_reachable(Lock & lock);
    Stream::Ticket request(Lock & lock, const ResultRead & read);
    ggml_status await_first_bytes(Lock & lock, Stream::Ticket ticket);
    ggml_status fail_launch(Lock & lock, const std::string & why);

    CommandQueue & queue_;
    BufferTable & buffers_;
    ServerTransfers & transfers_;
    SessionRecorder & recorder_;
    const milliseconds idle_before_probe_;
    bool is_grouped_ = false;
    std::string ranks_;
    std::optional<Stream::Ticket> requested_;  // by the last launch, not awaited yet
    bool is_investigated_ = false;  // the launch failure that was not taken yet
};

}  // namespace caravan::client
