#include "server/supervisor/worker_process.h"

#include <fcntl.h>
#include <signal.h>
#include <spawn.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cctype>
#include <cstdlib>
#include <cstring>
#include <string_view>

#include "base/environment.h"
#include "base/formatted.h"
#include "net/socket.h"
#include "server/ipc/control.h"
#include "server/supervisor/worker_program.h"

extern char ** environ;

namespace caravan::server {
namespace {

struct Child {
    pid_t pid = -1;
    UniqueFd control;
};

// libgomp's threads spin at each barrier, by default so long that two sessions on the same cores delay each other. libgomp
// reads this variable when it is loaded. 300 iterations make two sessions 1.6 to 2 times as fast as 1000 do, and do not slow
// down a single one; 100 do.
constexpr const char * short_spinning = "GOMP_SPINCOUNT=300";

// A worker reads untrusted input, so variables whose names suggest a secret are not passed to it.
bool is_secret(const char * variable) {
    constexpr std::string_view marks[] = {"TOKEN", "SECRET", "PASSW", "CREDENTIAL", "API_KEY", "APIKEY", "ACCESS_KEY",
                                          "PRIVATE_KEY", "_AUTH"};
    std::string name(variable, std::strcspn(variable, "="));
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::toupper(c); });
    return std::ranges::any_of(marks, [&](std::string_view mark) { return name.contains(mark); });
}

std::vector<char *> worker_environment() {
    std::vector<char *> variables;
    for (char ** variable = environ; *variable != nullptr; ++variable) {
        if (!is_secret(*variable)) {
            variables.push_back(*variable);
        }
    }
    if (!is_set(variable::spin_count) && !is_set(variable::wait_policy)) {
        variables.push_back(const_cast<char *>(short_spinning));
    }
    variables.push_back(nullptr);
    return variables;
}

Result<Child> start_child(const WorkerProgram & program, const char * command, const WorkerOptions & options) {
    auto channel = make_control_channel();
    if (!channel) {
        return std::unexpected(channel.error());
    }
    UniqueFd ours = std::move(channel->supervisor);
    const UniqueFd theirs = std::move(channel->worker);  // without close-on-exec; closed after the spawn

    std::vector<std::string> arguments = to_arguments(options);
    arguments.insert(arguments.begin(), {"caravan-worker", command, std::to_string(theirs.get())});
    std::vector<char *> argv;
    for (std::string & argument : arguments) {
        argv.push_back(argument.data());
    }
    argv.push_back(nullptr);
    // The child starts with no signal blocked and with default handlers, whatever the server inherited.
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
    Child child;
    const int error = ::posix_spawn(&child.pid, program.path().c_str(), nullptr, &attributes, argv.data(),
                                    worker_environment().data());
    posix_spawnattr_destroy(&attributes);
    if (error != 0) {
        return fail(Errc::unavailable, "cannot start a worker process: {}", errno_text(error));
    }
    if (const rlimit files{options.open_files, options.open_files}; options.open_files != 0) {
        ::prlimit(child.pid, RLIMIT_NOFILE, &files, nullptr);
    }
    child.control = std::move(ours);
    return child;
}

}  // namespace

Result<WorkerProcess> start_worker(const WorkerProgram & program, WorkerOptions options, bool beyond_loopback) {
    if (!options.links) {
        // Networks change, so they are looked up for each worker.
        options.links = beyond_loopback ? net::Networks::of_interfaces() : net::Networks::loopback();
        options.local_links = true;
    }
    return start_child(program, serve_command, options).transform([](Child child) {
        WorkerProcess worker;
        worker.pid = child.pid;
        worker.control = std::move(child.control);
        worker.awaits_build = true;
        return worker;
    });
}

Result<IndexerProcess> start_indexer(const WorkerProgram & program, const WorkerOptions & options) {
    return start_child(program, index_command, options).transform([](Child child) {
        return IndexerProcess{child.pid, std::move(child.control)};
    });
}

std::string describe_exit(int status) {
    if (WIFSIGNALED(status)) {
        return formatted("signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    }
    return formatted("exit code {}", WEXITSTATUS(status));
}

}  // namespace caravan::server
