// A program that this process starts and waits for.
#pragma once

#include <memory>
#include <string>
#include <utility>
#include <vector>

#include "base/error.h"
#include "platform/process_control.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

struct Pipe {
    UniqueFd read, write;  // not inherited by child processes
};
Result<Pipe> make_pipe();

// While an object exists, SIGINT, SIGTERM and SIGHUP do not end this process, but make fd() readable. The destructor restores
// the former state and raises the signal that was taken. One object in a process; other threads must block these signals.
class HeldSignals {
public:
    HeldSignals();
    HeldSignals(const HeldSignals &) = delete;
    HeldSignals & operator=(const HeldSignals &) = delete;
    ~HeldSignals();

    Descriptor fd() const { return fd_.get(); }
    void take();

private:
    friend class ChildProcess;
    struct Mask;
    const std::unique_ptr<Mask> before_;
    UniqueFd fd_;
    int taken_ = 0;
};

// Owns a running process. The destructor kills it, unless wait() was called.
class ChildProcess {
public:
    // Starts the program at the path arguments[0] with this environment ("NAME=VALUE"), empty stdin, and the signals that
    // were not blocked before `signals`. Errc::unavailable on failure; the error's text is the system's reason.
    static Result<ChildProcess> start(std::vector<std::string> arguments, std::vector<std::string> environment,
                                      Descriptor out, Descriptor err, const HeldSignals & signals);
    ChildProcess(ChildProcess && other) noexcept : id_(std::exchange(other.id_, -1)) {}
    ChildProcess & operator=(ChildProcess &&) = delete;
    ~ChildProcess();

    // Blocks until the process has ended. Call it once.
    ExitStatus wait();

private:
    explicit ChildProcess(ProcessId id) : id_(id) {}
    ProcessId id_;  // -1: moved from, or waited for
};

}  // namespace caravan::platform
