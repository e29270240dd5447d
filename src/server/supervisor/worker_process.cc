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

#include "base/formatted.h"
#include "net/socket.h"
#include "server/ipc/control.h"

extern char ** environ;

namespace caravan::server {
namespace {

// The program file of this process, even if an upgrade has replaced the file at its path.
constexpr const char * own_program = "/proc/self/exe";

struct Child {
    pid_t pid = -1;
    UniqueFd line;
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
    if (std::getenv("GOMP_SPINCOUNT") == nullptr && std::getenv("OMP_WAIT_POLICY") == nullptr) {
        variables.push_back(const_cast<char *>(short_spinning));
    }
    variables.push_back(nullptr);
    return variables;
}

// `open_files`: the child's limit of open files; 0: that of this process.
Result<Child> start_child(const char * option, std::vector<std::string> arguments, size_t open_files) {
    auto line = make_control_line();
    if (!line) {
        return std::unexpected(line.error());
    }
    UniqueFd ours = std::move(line->supervisor);
    const UniqueFd theirs = std::move(line->worker);  // without close-on-exec; closed after the spawn

    arguments.insert(arguments.begin(), {"rpc-server", option, std::to_string(theirs.get())});
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
    const int error = ::posix_spawn(&child.pid, own_program, nullptr, &attributes, argv.data(),
                                    worker_environment().data());
    posix_spawnattr_destroy(&attributes);
    if (error != 0) {
        return fail(Errc::unavailable, "cannot start a worker process: {}", errno_text(error));
    }
    if (const rlimit files{open_files, open_files}; open_files != 0) {
        ::prlimit(child.pid, RLIMIT_NOFILE, &files, nullptr);
    }
    child.line = std::move(ours);
    return child;
}

void append_options(std::vector<std::string> & arguments, const WorkerOptions & options) {
    const cache::WeightOptions & weights = options.weights;
    if (!options.confined) {
        arguments.push_back("--no-confinement");
    }
    if (weights.keep) {
        arguments.insert(arguments.end(), {"--cache", "--cache-size", std::to_string(weights.max_bytes)});
    }
    if (!weights.directory.empty()) {
        arguments.insert(arguments.end(), {"--cache-dir", weights.directory.string()});
    }
    for (const std::filesystem::path & dir : weights.model_dirs) {
        arguments.insert(arguments.end(), {"--model-dir", dir.string()});
    }
}

}  // namespace

Result<WorkerProcess> start_worker(const WorkerOptions & options, bool beyond_loopback) {
    // Networks change, so they are looked up for each worker.
    const net::Networks links = options.links      ? *options.links
                                : beyond_loopback ? net::Networks::of_interfaces()
                                                  : net::Networks::loopback();
    std::vector<std::string> arguments{"--threads", std::to_string(options.threads), "--session-grace",
                                       std::to_string(options.session_grace.count()), "--links", links.text()};
    if (!options.links) {
        arguments.push_back(local_links_option);
    }
    for (const std::string & device : options.devices) {
        arguments.insert(arguments.end(), {"--device", device});
    }
    if (options.max_memory != WorkerOptions::no_limit) {
        arguments.insert(arguments.end(), {"--max-memory", std::to_string(options.max_memory)});
    }
    append_options(arguments, options);
    return start_child(worker_option, std::move(arguments), options.open_files).transform([](Child child) {
        WorkerProcess worker;
        worker.pid = child.pid;
        worker.control = std::move(child.line);
        return worker;
    });
}

Result<IndexerProcess> start_indexer(const WorkerOptions & options) {
    std::vector<std::string> arguments;
    append_options(arguments, options);
    return start_child(indexer_option, std::move(arguments), options.open_files).transform([](Child child) {
        return IndexerProcess{child.pid, std::move(child.line)};
    });
}

std::string describe_exit(int status) {
    if (WIFSIGNALED(status)) {
        return formatted("signal {} ({})", WTERMSIG(status), ::strsignal(WTERMSIG(status)));
    }
    return formatted("exit code {}", WEXITSTATUS(status));
}

}  // namespace caravan::server
