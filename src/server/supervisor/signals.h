// The signals that the supervisor handles: SIGTERM and SIGINT request it to stop, SIGCHLD reports that a child has changed its
// state. SIGPIPE is ignored. One object in a process.
#pragma once

#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::server {

class Signals {
public:
    // Installs the handlers, which stay until the process ends.
    static Result<Signals> install();

    int fd() const { return received_.get(); }  // readable after a signal, until read()
    void read();

    int stop_requests() const { return stop_requests_; }
    int stop_signal() const { return stop_signal_; }  // the first one; 0: none

private:
    explicit Signals(UniqueFd received) : received_(std::move(received)) {}

    UniqueFd received_;
    int stop_requests_ = 0, stop_signal_ = 0;
};

}  // namespace caravan::server
