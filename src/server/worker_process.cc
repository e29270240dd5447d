#include "server/worker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <format>

#include "net/socket.h"

extern char ** environ;

namespace caravan::server {
namespace {

Result<std::string> own_path() {
    std::error_code error;
    const auto path = std::filesystem::read_symlink("/proc/self/exe", error);
    if (error) {
        return fail(Errc::io, "cannot find my own program file: {}", error.message());
    }
    return path.string();
}

}  // namespace

Result<WorkerProcess> start_worker(const WorkerOptions & options) {
    const auto program = own_path();
    if (!program) {
        return std::unexpected(program.error());
    }
    int ends[2];
    if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) {
        return fail(Errc::io, "cannot make a socket pair: {}", errno_text(errno));
    }
    UniqueFd ours(ends[0]);
    const UniqueFd theirs(ends[1]);  // inherited: the only descriptor without close-on-exec, and only until the spawn
    ::fcntl(ours.get(), F_SETFD, FD_CLOEXEC);
    net::set_non_blocking(ours.get(), true);

    std::vector<std::string> arguments{"rpc-server", worker_option, std::to_string(theirs.get()), "--threads",
                                       std::to_string(options.threads)};
    for (const std::string & device : options.devices) {
        arguments.insert(arguments.end(), {"--device", device});
    }
    if (options.cache_dir) {
        arguments.insert(arguments.end(), {"--cache", "--cache-dir", *options.cache_dir});
    }
    std::vector<char *> argv;
    for (std::string & argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    // The supervisor blocks the signals that it reads from its pipe; a worker starts with none blocked.
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    sigset_t none;
    sigemptyset(&none);
    posix_spawnattr_setsigmask(&attributes, &none);
    sigset_t defaults;
    sigemptyset(&defaults);
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD, SIGPIPE}) {
        sigaddset(&defaults, signal);
    }
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
    WorkerProcess worker;
    const int error = ::posix_spawn(&worker.pid, program->c_str(), nullptr, &attributes, argv.data(), environ);
    posix_spawnattr_destroy(&attributes);
    if (error != 0) {
        return fail(Errc::unavailable, "cannot start a worker process: {}", errno_text(error));
    }
    worker.control = std::move(ours);
    return worker;
}

std::string describe_exit(int status) {
    if (WIFSIGNALED(status)) {
        return std::format("signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    }
    return std::format("exit code {}", WEXITSTATUS(status));
}

}  // namespace caravan::server
