// caravan-worker: a process that rpc-server starts. It serves one session, or indexes model files.

#include <charconv>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "base/config.h"
#include "base/log.h"
#include "ggml-backend.h"
#include "platform/process.h"
#include "server/graph/devices.h"
#include "server/ipc/build.h"
#include "server/ipc/server_log.h"
#include "server/ipc/worker_options.h"
#include "server/worker/indexer.h"
#include "server/worker/worker.h"

namespace {

using namespace caravan;

int by_hand() {
    std::fputs("caravan-worker serves the sessions of rpc-server, which starts it. See rpc-server --help.\n", stderr);
    return 2;
}

int list_devices() {
    ggml_log_set([](ggml_log_level, const char *, void *) {}, nullptr);
    std::printf("Devices:\n%s", server::Devices::describe_all().c_str());
    return 0;
}

int print_ggml_version() {
    std::printf("%s", ggml_version());
    return 0;
}

int serve_or_index(bool serves, int line, std::span<const std::string> arguments) {
    platform::set_process_name("caravan-worker");  // it is executed by a descriptor, and would be called by its number
    server::begin_server_log();
    silence_environment_warnings();  // the supervisor has the same environment
    if (serves && !server::send_build(line)) {
        return EXIT_FAILURE;
    }
    const auto options = server::from_arguments(arguments);
    if (!options) {
        log_error("caravan-worker: {}", options.error().text);
        return EXIT_FAILURE;
    }
    if (serves) {
        return server::run_worker(line, *options);
    }
    // No exit handlers in a confined process: a leak checker, for example, needs rights that it gave up.
    std::_Exit(server::run_indexer(line, *options));
}

}  // namespace

int main(int argc, char ** argv) {
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    const std::string_view command = arguments.empty() ? "" : std::string_view(arguments[0]);
    if (command == server::list_devices_command) {
        return list_devices();
    }
    if (command == server::ggml_version_command) {
        return print_ggml_version();
    }
    int line = -1;
    if (arguments.size() >= 2) {
        std::from_chars(arguments[1].data(), arguments[1].data() + arguments[1].size(), line);
    }
    const bool serves = command == server::serve_command;
    if ((!serves && command != server::index_command) || line < 0) {
        return by_hand();
    }
    return serve_or_index(serves, line, std::span(arguments).subspan(2));
}
