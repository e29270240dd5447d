#include "server/supervisor/worker_process.h"

#include <algorithm>
#include <cctype>
#include <string_view>

#include "base/environment.h"
#include "net/socket.h"
#include "platform/limits.h"
#include "platform/process.h"
#include "platform/spawn.h"
#include "server/ipc/control.h"
#include "server/supervisor/worker_program.h"

namespace caravan::server {
namespace {

struct Child {
    platform::ProcessId pid = -1;
    UniqueFd control;
};

// libgomp's threads spin at each barrier, by default so long that two sessions on the same cores delay each other. libgomp
// reads this variable when it is loaded. 300 iterations make two sessions 1.6 to 2 times as fast as 1000 do, and do not slow
// down a single one; 100 do.
constexpr const char * short_spinning = "GOMP_SPINCOUNT=300";

// A worker reads untrusted input, so variables whose names suggest a secret are not passed to it.
bool is_secret(const std::string & variable) {
    constexpr std::string_view marks[] = {"TOKEN", "SECRET", "PASSW", "CREDENTIAL", "API_KEY", "APIKEY", "ACCESS_KEY",
                                          "PRIVATE_KEY", "_AUTH"};
    std::string name = variable.substr(0, variable.find('='));
    std::ranges::transform(name, name.begin(), [](unsigned char c) { return std::toupper(c); });
    return std::ranges::any_of(marks, [&](std::string_view mark) { return name.contains(mark); });
}

std::vector<std::string> worker_environment() {
    std::vector<std::string> variables = platform::environment();
    std::erase_if(variables, is_secret);
    if (!is_set(variable::spin_count) && !is_set(variable::wait_policy)) {
        variables.emplace_back(short_spinning);
    }
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
    const auto process = platform::spawn({.program = program.path(),
                                          .arguments = std::move(arguments),
                                          .environment = worker_environment(),
                                          .resets_signals = true});
    if (!process) {
        return fail(Errc::unavailable, "cannot start a worker process: {}", process.error().text);
    }
    if (options.open_files != 0) {
        platform::set_open_file_limit_of(*process, options.open_files);
    }
    return Child{*process, std::move(ours)};
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

}  // namespace caravan::server
