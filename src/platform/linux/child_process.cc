#include "platform/child_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <cerrno>

namespace caravan::platform {
namespace {

std::vector<char *> pointers(std::vector<std::string> & words) {
    std::vector<char *> out;
    for (std::string & word : words) {
        out.push_back(word.data());
    }
    out.push_back(nullptr);
    return out;
}

}  // namespace

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
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &signals.before_->signals);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    pid_t id = -1;
    const int error = ::posix_spawn(&id, arguments[0].c_str(), &actions, &attributes, pointers(arguments).data(),
                                    pointers(environment).data());
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error == 0 ? Result<ChildProcess>(ChildProcess(id)) : fail(Errc::unavailable, "{}", errno_text(error));
}

ChildProcess::~ChildProcess() {
    if (id_ > 0) {
        kill_process(id_);
        wait();
    }
}

ExitStatus ChildProcess::wait() {
    return wait_for(std::exchange(id_, -1));
}

}  // namespace caravan::platform
