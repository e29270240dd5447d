#include "bench/child.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <cstring>
#include <optional>
#include <string_view>

#include "base/formatted.h"
#include "platform/unique_fd.h"

extern char ** environ;

namespace caravan::bench {
namespace {

constexpr size_t max_last_lines = 4;

struct Pipe {
    UniqueFd read, write;
};

Result<Pipe> make_pipe() {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return fail(Errc::io, "cannot create a pipe: {}", errno_text(errno));
    }
    return Pipe{UniqueFd(ends[0]), UniqueFd(ends[1])};
}

// Reads the signals that end this process from a descriptor; raises one that arrived when it is destroyed.
class HeldSignals {
public:
    HeldSignals() {
        sigset_t ending;
        sigemptyset(&ending);
        for (const int signal : {SIGINT, SIGTERM, SIGHUP}) {
            sigaddset(&ending, signal);
        }
        ::sigprocmask(SIG_BLOCK, &ending, &before_);
        fd_.reset(::signalfd(-1, &ending, SFD_CLOEXEC | SFD_NONBLOCK));
    }
    HeldSignals(const HeldSignals &) = delete;
    ~HeldSignals() {
        ::sigprocmask(SIG_SETMASK, &before_, nullptr);
        if (arrived_ != 0) {
            ::raise(arrived_);
        }
    }

    int fd() const { return fd_.get(); }
    const sigset_t & before() const { return before_; }
    void take() {
        signalfd_siginfo info{};
        if (::read(fd_.get(), &info, sizeof info) == sizeof info) {
            arrived_ = static_cast<int>(info.ssi_signo);
        }
    }

private:
    sigset_t before_{};
    UniqueFd fd_;
    int arrived_ = 0;
};

// Owns a running process; the destructor kills it unless wait() was called.
class Running {
public:
    explicit Running(pid_t pid) : pid_(pid) {}
    Running(const Running &) = delete;
    ~Running() {
        if (pid_ > 0) {
            ::kill(pid_, SIGKILL);
            wait();
        }
    }
    int wait() {
        int status = 0;
        while (::waitpid(pid_, &status, 0) < 0 && errno == EINTR) {
        }
        pid_ = -1;
        return status;
    }

private:
    pid_t pid_;
};

std::vector<std::string> environment_with(const Environment & changes) {
    std::vector<std::string> out;
    for (char ** entry = environ; *entry != nullptr; ++entry) {
        const std::string_view text = *entry;
        if (!changes.contains(std::string(text.substr(0, text.find('='))))) {
            out.emplace_back(text);
        }
    }
    for (const auto & [name, value] : changes) {
        if (!value.empty()) {
            out.push_back(name + "=" + value);
        }
    }
    return out;
}

std::vector<char *> pointers(std::vector<std::string> & words) {
    std::vector<char *> out;
    for (std::string & word : words) {
        out.push_back(word.data());
    }
    out.push_back(nullptr);
    return out;
}

Result<pid_t> spawn(std::vector<std::string> argv, const Environment & changes, int out, int err, const sigset_t & mask) {
    std::vector<std::string> environment = environment_with(changes);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, out, STDOUT_FILENO);
    posix_spawn_file_actions_adddup2(&actions, err, STDERR_FILENO);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setsigmask(&attributes, &mask);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
    pid_t pid = -1;
    const int error =
        ::posix_spawn(&pid, argv[0].c_str(), &actions, &attributes, pointers(argv).data(), pointers(environment).data());
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        return fail(Errc::unavailable, "cannot start {}: {}", argv[0], errno_text(error));
    }
    return pid;
}

// Appends available bytes. Returns false at the end of the file.
bool read_some(int fd, std::string & to) {
    std::array<char, 16384> piece;
    const ssize_t n = ::read(fd, piece.data(), piece.size());
    if (n > 0) {
        to.append(piece.data(), static_cast<size_t>(n));
    }
    return n > 0 || (n < 0 && errno == EINTR);
}

void cut_lines(std::string & rest, std::vector<Child::Line> & lines) {
    const TimePoint now = Clock::now();
    for (size_t end; (end = rest.find('\n')) != rest.npos; rest.erase(0, end + 1)) {
        lines.push_back({now, rest.substr(0, end)});
    }
}

}  // namespace

std::string Child::exit_text() const {
    if (WIFSIGNALED(status)) {
        return formatted("signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    }
    return formatted("exit code {}", WEXITSTATUS(status));
}

std::string Child::last_lines() const {
    std::string out;
    for (size_t i = err.size() - std::min(err.size(), max_last_lines); i < err.size(); ++i) {
        out += (out.empty() ? "" : " | ") + err[i].text;
    }
    return out;
}

Result<Child> run_child(const std::vector<std::string> & argv, const Environment & changes, TimePoint deadline) {
    auto out = make_pipe();
    auto err = make_pipe();
    if (!out || !err) {
        return std::unexpected(out ? err.error() : out.error());
    }
    HeldSignals signals;  // destroyed after the child has ended
    const auto pid = spawn(argv, changes, out->write.get(), err->write.get(), signals.before());
    if (!pid) {
        return std::unexpected(pid.error());
    }
    Running running(*pid);
    out->write.reset();
    err->write.reset();
    Child child;
    std::string rest;
    while (out->read || err->read) {
        std::array<pollfd, 3> watched{
            {{signals.fd(), POLLIN, 0}, {out->read.get(), POLLIN, 0}, {err->read.get(), POLLIN, 0}}};
        if (::poll(watched.data(), watched.size(), poll_timeout_ms(deadline)) < 0 && errno != EINTR) {
            return fail(Errc::io, "cannot wait for {}: {}", argv[0], errno_text(errno));
        }
        if (watched[0].revents != 0) {
            signals.take();
            return fail(Errc::closed, "ended by a signal");
        }
        if (Clock::now() >= deadline) {
            return fail(Errc::timed_out, "{} exceeded its time limit and was killed", argv[0]);
        }
        if (watched[1].revents != 0 && !read_some(out->read.get(), child.out)) {
            out->read.reset();
        }
        if (watched[2].revents != 0) {
            if (!read_some(err->read.get(), rest)) {
                err->read.reset();
                rest += rest.empty() ? "" : "\n";
            }
            cut_lines(rest, child.err);
        }
    }
    child.status = running.wait();
    return child;
}

}  // namespace caravan::bench
