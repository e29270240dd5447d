#include "server/supervisor/worker_program.h"

#include <array>
#include <filesystem>
#include <vector>

#include "base/clock.h"
#include "platform/child_process.h"
#include "platform/file.h"
#include "platform/poll.h"
#include "platform/process.h"
#include "platform/spawn.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

namespace fs = std::filesystem;

constexpr const char * name = "caravan-worker";

std::vector<fs::path> places() {
    const fs::path own = platform::program_path();
    return {own.parent_path() / name, (own.parent_path() / CARAVAN_WORKER_FROM_BIN).lexically_normal()};
}

// Reads to the end of the pipe. Errc::timed_out at the deadline.
Result<std::string> read_all(Descriptor pipe, TimePoint deadline) {
    std::string text;
    for (std::array<char, 512> bytes;;) {
        platform::Watch watch{pipe, platform::readable, 0};
        const auto ready = platform::poll({&watch, 1}, poll_timeout_ms(deadline));
        if (!ready) {
            return fail(Errc::io, "cannot be waited for: {}", ready.error().text);
        }
        if (*ready == 0) {
            if (Clock::now() >= deadline) {
                return fail(Errc::timed_out, "did not end within {} s", tunable::worker_output_timeout.count());
            }
            continue;
        }
        const auto got = platform::read_some(pipe, mutable_bytes(bytes.data(), bytes.size()));
        if (!got) {
            return fail(Errc::io, "cannot be read: {}", got.error().text);
        }
        if (*got == 0) {
            return text;
        }
        text.append(bytes.data(), *got);
    }
}

}  // namespace

Result<WorkerProgram> WorkerProgram::open() {
    std::string looked;
    for (const fs::path & place : places()) {
        auto file = platform::open_program(place);
        if (file) {
            return WorkerProgram(std::move(*file));
        }
        looked += formatted("{}{} ({})", looked.empty() ? "" : " and ", place.string(), file.error().text);
    }
    return fail(Errc::not_found, "cannot find the program {}, which serves the sessions: looked for {}. Install it together "
                "with rpc-server, or build the target rpc-server, which includes it", name, looked);
}

std::string WorkerProgram::path() const { return platform::path_of(file_.get()); }

Result<std::string> WorkerProgram::output_of(const char * command) const {
    auto output = platform::make_pipe();
    if (!output) {
        return fail(Errc::unavailable, "{}", output.error().text);
    }
    const auto process = platform::spawn({.program = path(),
                                          .arguments = {name, command},
                                          .environment = platform::environment(),
                                          .out = output->write.get()});
    if (!process) {
        return fail(Errc::unavailable, "cannot execute {}: {}", name, process.error().text);
    }
    output->write.reset();
    auto text = read_all(output->read.get(), Clock::now() + tunable::worker_output_timeout);
    if (!text) {
        platform::send_signal(*process, platform::Signal::kill);
    }
    const platform::ExitStatus status = platform::wait_for(*process);
    if (!text) {
        return fail(text.error().code, "{} {} {}", name, command, text.error().text);
    }
    if (!status.is_success()) {
        return fail(Errc::unavailable, "{} {} failed", name, command);
    }
    return text;
}

Error WorkerProgram::become(const char * command) const {
    const Error error = platform::become(path(), {name, command});
    return {Errc::unavailable, formatted("cannot execute {}: {}", name, error.text)};
}

}  // namespace caravan::server
