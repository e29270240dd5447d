#include "platform/process_control.h"

#include <fcntl.h>
#include <signal.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/syscall.h>
#endif

#include <cerrno>
#include <cstring>

#include "base/formatted.h"

namespace caravan::platform {
namespace {

int number_of(Condition condition) {
    switch (condition) {
        case Condition::interrupt: return SIGINT;
        case Condition::broken_pipe: return SIGPIPE;
        case Condition::file_too_long: return SIGXFSZ;
        case Condition::broken_lease: break;
    }
    return SIGIO;
}

ExitStatus status_in(int status) {
    return WIFSIGNALED(status) ? ExitStatus{.signal = WTERMSIG(status)} : ExitStatus{.code = WEXITSTATUS(status)};
}

}  // namespace

ProcessId own_process() { return ::getpid(); }

void send_signal(ProcessId process, Signal signal) {
    ::kill(process, signal == Signal::interrupt ? SIGINT : signal == Signal::terminate ? SIGTERM : SIGKILL);
}

void ignore(std::initializer_list<Condition> conditions) {
    for (const Condition condition : conditions) {
        ::signal(number_of(condition), SIG_IGN);
    }
}

std::string ExitStatus::text() const {
    return signal != 0 ? formatted("signal {} ({})", signal, ::strsignal(signal)) : formatted("exit code {}", code);
}

ExitStatus wait_for(ProcessId child) {
    int status = 0;
    while (::waitpid(child, &status, 0) < 0 && errno == EINTR) {
    }
    return status_in(status);
}

std::optional<ChildEvent> next_child_event() {
    int status = 0;
    const pid_t process = ::waitpid(-1, &status, WNOHANG | WUNTRACED | WCONTINUED);
    if (process <= 0) {
        return std::nullopt;
    }
    if (WIFSTOPPED(status) || WIFCONTINUED(status)) {
        return ChildEvent{WIFSTOPPED(status) ? ChildEvent::Kind::stopped : ChildEvent::Kind::continued, process, {}};
    }
    return ChildEvent{ChildEvent::Kind::exited, process, status_in(status)};
}

void end_process(int code) { ::_exit(code); }

void lower_priority() {
    constexpr int lowest = 19;
    ::setpriority(PRIO_PROCESS, 0, lowest);
}

void close_inherited([[maybe_unused]] Descriptor kept) {
#ifdef __linux__
    const auto first = static_cast<unsigned>(STDERR_FILENO + 1), last = static_cast<unsigned>(kept);
    if (last > first) {
        ::syscall(SYS_close_range, first, last - 1, 0);
    }
    ::syscall(SYS_close_range, last + 1, ~0u, 0);
#endif
    if (const UniqueFd nothing(::open("/dev/null", O_RDONLY | O_CLOEXEC)); nothing) {
        ::dup2(nothing.get(), STDIN_FILENO);
    }
}

}  // namespace caravan::platform
