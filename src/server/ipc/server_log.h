// The log of a server process: supervisor, worker or indexer. Events (clients that connect and leave) go to stdout, other lines
// to stderr. Each line has a timestamp, unless journald reads it and adds its own.
//
// Logging never blocks. Text from peers and file names is escaped, so it cannot control a terminal or forge a line. Lines above
// the rate limits, or that the reader of the output does not read, are dropped and counted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/formatted.h"

namespace caravan::server {

// Starts the log, also for log.h. Opens missing descriptors of 0 to 2 as /dev/null, so that no socket gets these numbers.
void begin_server_log();
// Writes pending counts of dropped lines. Call it before the process exits.
void end_server_log();

// Later lines name this session. `lines`: the burst of lines of each kind; further lines are limited to one a second.
void begin_session_log(uint64_t session, uint32_t lines);
// The number of `lines` not used yet. Any thread.
uint32_t unused_session_lines();

// Logs an event about a client. The rate limit of each address keeps one client from suppressing the lines of others.
void event_line(const std::string & address, std::string_view line);
template <class... Args>
void log_event(const std::string & address, std::format_string<Args...> format, Args &&... args) {
    event_line(address, formatted(format, std::forward<Args>(args)...));
}

// For interactive use: print_lines() writes to stdout, print_error() to stderr, without time-stamps and limits.
void print_lines(std::string_view lines);
void print_error(std::string_view text);

}  // namespace caravan::server
