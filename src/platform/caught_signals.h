// The signals that a server handles: SIGTERM and SIGINT request it to stop, SIGCHLD reports that a child process has changed
// its state (next_child_event()). SIGPIPE is ignored. One object in a process.
#pragma once

#include <utility>

#include "base/error.h"
#include "platform/process_control.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

class CaughtSignals {
public:
    // Installs the handlers, which stay until the process ends. Errc::io.
    static Result<CaughtSignals> install();

    Descriptor fd() const { return received_.get(); }  // readable after a signal, until read()
    void read();

    int stop_requests() const { return stop_requests_; }
    Signal stop_signal() const { return stop_signal_; }  // of the first request

private:
    explicit CaughtSignals(UniqueFd received) : received_(std::move(received)) {}

    UniqueFd received_;
    int stop_requests_ = 0;
    Signal stop_signal_ = Signal::terminate;
};

}  // namespace caravan::platform
