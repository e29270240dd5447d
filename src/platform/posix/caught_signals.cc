#include "platform/caught_signals.h"

#include <fcntl.h>
#include <signal.h>
#include <unistd.h>

#include <cerrno>

namespace caravan::platform {
namespace {

int signal_input = -1;  // the pipe's end that the handler writes to

void on_signal(int signal) {
    const int saved = errno;
    const char byte = static_cast<char>(signal);
    [[maybe_unused]] const ssize_t ignored = ::write(signal_input, &byte, 1);
    errno = saved;
}

}  // namespace

Result<CaughtSignals> CaughtSignals::install() {
    int ends[2];
    if (::pipe(ends) != 0) {
        return fail(Errc::io, "cannot make a pipe: {}", errno_text(errno));
    }
    for (const int fd : ends) {
        ::fcntl(fd, F_SETFD, FD_CLOEXEC);
        ::fcntl(fd, F_SETFL, O_NONBLOCK);
    }
    signal_input = ends[1];
    struct sigaction action{};
    action.sa_handler = on_signal;
    action.sa_flags = SA_RESTART;
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD}) {
        ::sigaction(signal, &action, nullptr);
    }
    ignore({Condition::broken_pipe});
    return CaughtSignals(UniqueFd(ends[0]));
}

void CaughtSignals::read() {
    char bytes[64];
    ssize_t got = 0;
    while ((got = ::read(received_.get(), bytes, sizeof bytes)) > 0) {
        for (ssize_t i = 0; i < got; ++i) {
            if (bytes[i] != SIGTERM && bytes[i] != SIGINT) {
                continue;
            }
            if (stop_requests_++ == 0) {
                stop_signal_ = bytes[i] == SIGINT ? Signal::interrupt : Signal::terminate;
            }
        }
    }
}

}  // namespace caravan::platform
