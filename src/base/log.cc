#include "base/log.h"

#include <atomic>
#include <cstdio>

#include "base/config.h"
#include "base/printable.h"

namespace caravan {
namespace {

void write_to_stderr(LogLevel level, std::string_view line) {
    const char * prefix = "";
    switch (level) {
        case LogLevel::debug: prefix = "debug: "; break;
        case LogLevel::info: break;
        case LogLevel::warning: prefix = "warning: "; break;
        case LogLevel::error: prefix = "error: "; break;
    }
    // A single call, so that lines from several threads and processes do not interleave.
    constexpr size_t longest = 4096;  // bytes
    const std::string whole = formatted("{}{}\n", prefix, printable(line, longest));
    std::fwrite(whole.data(), 1, whole.size(), stderr);
}

std::atomic<LogSink> current_sink{write_to_stderr};

}  // namespace

void set_log_sink(LogSink sink) { current_sink.store(sink, std::memory_order_relaxed); }

void log_line(LogLevel level, std::string_view line) { current_sink.load(std::memory_order_relaxed)(level, line); }

bool debug_enabled() {
    static const bool on = env_flag(variable::debug.name, false);
    return on;
}

}  // namespace caravan
