#include "server/supervisor/worker_program.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <filesystem>
#include <system_error>
#include <vector>

#include "base/clock.h"

extern char ** environ;

namespace caravan::server {
namespace {

namespace fs = std::filesystem;

constexpr const char * name = "caravan-worker";
constexpr seconds output_timeout{10};

std::vector<fs::path> places() {
    std::error_code error;
    const fs::path own = fs::read_symlink("/proc/self/exe", error);
    return {own.parent_path() / name, (own.parent_path() / CARAVAN_WORKER_FROM_BIN).lexically_normal()};
}

// Reads to the end of the pipe. False: it did not end before the deadline.
bool read_all(int fd, std::string & text, TimePoint deadline) {
    for (std::array<char, 512> bytes;;) {
        pollfd pipe{fd, POLLIN, 0};
        if (const int events = ::poll(&pipe, 1, poll_timeout_ms(deadline)); events == 0) {
            return false;
        }
        const ssize_t got = ::read(fd, bytes.data(), bytes.size());
        if (got == 0) {
            return true;
        }
        text.append(bytes.data(), got > 0 ? static_cast<size_t>(got) : 0);
    }
}

}  // namespace

Result<WorkerProgram> WorkerProgram::open() {
    std::string looked;
    for (const fs::path & place : places()) {
        if (UniqueFd file(::open(place.c_str(), O_PATH | O_CLOEXEC)); file && ::access(place.c_str(), X_OK) == 0) {
            return WorkerProgram(std::move(file));
        }
        looked += formatted("{}{} ({})", looked.empty() ? "" : " and ", place.string(), errno_text(errno));
    }
    return fail(Errc::not_found, "cannot find the program {}, which serves the sessions: looked for {}. Install it together "
                "with rpc-server, or build the target rpc-server, which includes it", name, looked);
}

std::string WorkerProgram::path() const { return formatted("/proc/self/fd/{}", file_.get()); }

Result<std::string> WorkerProgram::output_of(const char * command) const {
    int ends[2];
    if (::pipe2(ends, O_CLOEXEC) != 0) {
        return fail(Errc::unavailable, "cannot make a pipe: {}", errno_text(errno));
    }
    const UniqueFd output(ends[0]);
    UniqueFd input(ends[1]);
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_adddup2(&actions, input.get(), STDOUT_FILENO);
    char * const argv[] = {const_cast<char *>(name), const_cast<char *>(command), nullptr};
    pid_t pid = -1;
    const int error = ::posix_spawn(&pid, path().c_str(), &actions, nullptr, argv, environ);
    posix_spawn_file_actions_destroy(&actions);
    if (error != 0) {
        return fail(Errc::unavailable, "cannot execute {}: {}", name, errno_text(error));
    }
    input.reset();
    std::string text;
    const bool has_ended = read_all(output.get(), text, Clock::now() + output_timeout);
    if (!has_ended) {
        ::kill(pid, SIGKILL);
    }
    int status = 0;
    while (::waitpid(pid, &status, 0) < 0 && errno == EINTR) {
    }
    if (!has_ended) {
        return fail(Errc::timed_out, "{} {} did not end within {} s", name, command, output_timeout.count());
    }
    if (status != 0) {
        return fail(Errc::unavailable, "{} {} failed", name, command);
    }
    return text;
}

Error WorkerProgram::become(const char * command) const {
    char * const argv[] = {const_cast<char *>(name), const_cast<char *>(command), nullptr};
    ::execv(path().c_str(), argv);
    return {Errc::unavailable, formatted("cannot execute {}: {}", name, errno_text(errno))};
}

}  // namespace caravan::server
