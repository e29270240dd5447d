#include "server/ipc/server_log.h"

#include <algorithm>
#include <ctime>
#include <mutex>
#include <optional>
#include <string>

#include "base/counted.h"
#include "base/line_shares.h"
#include "base/log.h"
#include "base/printable.h"
#include "base/timestamp.h"
#include "platform/log_output.h"
#include "platform/terminal.h"

namespace caravan::server {
namespace {

constexpr size_t max_text = LogOutput::max_line - 96;  // leaves space for prefix and suffix

// Prefix of lines that programs parse (docs/rdma.md), so they are written unchanged.
constexpr std::string_view verbatim = "RDMA ";

// Lines of one kind: their output and rate limit.
class Channel {
public:
    Channel(LogOutput & output, double burst, double per_second) : Channel(output, burst, per_second, burst, per_second) {}
    // With a limit for each key in addition to the common one.
    Channel(LogOutput & output, double burst, double per_second, double burst_each, double per_second_each)
        : output_(output), limit_(std::in_place, burst, per_second, burst_each, per_second_each) {}
    explicit Channel(LogOutput & output) : output_(output) {}

    void set_limit(double burst, double per_second) {
        std::lock_guard lock(mutex_);
        limit_.emplace(burst, per_second, burst, per_second);
        written_ = 0;
    }
    void write(const char * prefix, std::string_view line, std::string_view suffix, const std::string & cause = {}) {
        std::lock_guard lock(mutex_);
        if (limit_ && !limit_->admits(cause, Clock::now())) {
            return;
        }
        ++written_;
        report();
        write_stamped(prefix + printable(line, max_text) + std::string(suffix));
    }
    uint32_t written() {
        std::lock_guard lock(mutex_);
        return written_;
    }
    void end() {
        std::lock_guard lock(mutex_);
        report();
    }

private:
    void report() {
        const uint64_t suppressed = limit_ ? limit_->take_suppressed() : 0;
        if (suppressed > 0) {
            write_stamped(formatted("warning: {} like the next {} suppressed: too many at once",
                                    counted(suppressed, "log line"), suppressed == 1 ? "was" : "were"));
        }
    }
    void write_stamped(const std::string & line) {
        output_.write(output_.is_journal() ? line : timestamp(std::chrono::system_clock::now()) + ' ' + line);
    }

    LogOutput & output_;
    std::mutex mutex_;
    std::optional<LineShares> limit_;
    uint32_t written_ = 0;  // since set_limit()
};

struct ServerLog {
    LogOutput out{platform::standard_output}, err{platform::standard_error};
    Channel events{out, 1000, 100, 300, 30};
    Channel debug{err};  // requested by the user, so unlimited
    Channel notes{err, 500, 20}, errors{err, 500, 20};
    std::string suffix;  // set before threads start
    uint32_t session_lines = 0;
};

// Never destroyed: threads may log until the process exits.
ServerLog & server_log() {
    static ServerLog & only = *new ServerLog();
    return only;
}

void write_line(LogLevel level, std::string_view line) {
    ServerLog & log = server_log();
    switch (level) {
        case LogLevel::debug: log.debug.write("debug: ", line, {}); break;
        case LogLevel::info: log.notes.write("", line, line.starts_with(verbatim) ? "" : log.suffix.c_str()); break;
        case LogLevel::warning: log.notes.write("warning: ", line, log.suffix); break;
        case LogLevel::error: log.errors.write("error: ", line, log.suffix); break;
    }
}

}  // namespace

void begin_server_log() {
    platform::fill_standard_streams();
    ::tzset();  // before confinement makes its files inaccessible
    (void)server_log();
    set_log_sink(write_line);
}

void end_server_log() {
    for (Channel * channel : {&server_log().events, &server_log().notes, &server_log().errors}) {
        channel->end();
    }
}

void begin_session_log(uint64_t session, uint32_t lines) {
    ServerLog & log = server_log();
    log.suffix = formatted(" (session {})", session);
    log.session_lines = lines;
    for (Channel * channel : {&log.notes, &log.errors}) {
        channel->set_limit(lines, 1);
    }
}

uint32_t unused_session_lines() {
    ServerLog & log = server_log();
    return log.session_lines - std::min(log.session_lines, std::max(log.notes.written(), log.errors.written()));
}

void event_line(const std::string & address, std::string_view line) { server_log().events.write("", line, {}, address); }

void print_lines(std::string_view lines) {
    while (!lines.empty()) {
        const size_t end = std::min(lines.find('\n'), lines.size());
        server_log().out.write(printable(lines.substr(0, end), max_text));
        lines.remove_prefix(std::min(end + 1, lines.size()));
    }
}

void print_error(std::string_view text) { server_log().err.write("error: " + printable(text, max_text)); }

}  // namespace caravan::server
