// The log of the program. Thread-safe. Lines are passed without a newline.
#pragma once

#include <string_view>

#include "base/formatted.h"

namespace caravan {

enum class LogLevel { debug, info, warning, error };

// Receives each line. The default sink writes to stderr; the plug-in sets one that calls ggml's log callback.
using LogSink = void (*)(LogLevel level, std::string_view line);
void set_log_sink(LogSink sink);

void log_line(LogLevel level, std::string_view line);

// True if GGML_RPC_DEBUG=1. Read once.
bool debug_enabled();

template <class... Args>
void log_info(std::format_string<Args...> format, Args &&... args) {
    log_line(LogLevel::info, formatted(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_warning(std::format_string<Args...> format, Args &&... args) {
    log_line(LogLevel::warning, formatted(format, std::forward<Args>(args)...));
}
template <class... Args>
void log_error(std::format_string<Args...> format, Args &&... args) {
    log_line(LogLevel::error, formatted(format, std::forward<Args>(args)...));
}
// Formats the line only if debug_enabled(), so it is cheap enough for the path of each token.
template <class... Args>
void log_debug(std::format_string<Args...> format, Args &&... args) {
    if (debug_enabled()) {
        log_line(LogLevel::debug, formatted(format, std::forward<Args>(args)...));
    }
}

}  // namespace caravan
