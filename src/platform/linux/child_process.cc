#include "platform/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

#include "platform/posix/spawn_with.h"

namespace caravan::platform {

struct HeldSignals::Mask {
    sigset_t signals{};
};

HeldSignals::HeldSignals() : before_(std::make_unique<Mask>()) {
    sigset_t ending;
    sigemptyset(&ending);
    for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
        sigaddset(&ending, signal);
    }
    ::sigprocmask(SIG_BLOCK, &ending, &before_->signals);
    fd_.reset(::signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK));
}

HeldSignals::~HeldSignals() {
    ::sigprocmask(SIG_SETMASK, &before_->signals, nullptr);
    if (taken_ != 0) {
        ::raise(taken_);
    }
}

void HeldSignals::take() {
    signalfd_siginfo info{};
    if (::read(fd_.get(), &info, sizeof info) == sizeof info) {
        taken_ = static_cast<int>(info.ssi_signo);
    }
}

Result<Pipe> make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return fail(Errc::io, "cannot create a pipe: {}", errno_text(errno));
    }
    return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

Result<ChildProcess> ChildProcess::start(std::vector<std::string> arguments, std::vector<std::string> environment,
                                         Descriptor out, Descriptor err, const HeldSignals & signals) {
    const Command command{.program = arguments[0],
                          .arguments = std::move(arguments),
                          .environment = std::move(environment),
                          .has_input = false,
                          .out = out,
                          .err = err};
    return spawn_with(command, signals.before_->signals).transform([](ProcessId id) { return ChildProcess(id); });
}

ChildProcess::~ChildProcess() {
    if (id_ > 0) {
        send_signal(id_, Signal::kill);
        wait();
    }
}

ExitStatus ChildProcess::wait() {
    return wait_for(std::exchange(id_, -1));
}

}  // namespace caravan::platform
