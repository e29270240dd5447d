// The log of a server's process: the supervisor's, a worker's, the indexer's. Events (clients that come and go) go to
// stdout, everything else to stderr, each line with a timestamp unless journald reads it and adds its own.
//
// No line makes the process wait, controls a terminal or forges another line, whatever a peer or a file name puts into
// it, and the number of lines is bounded: what nobody reads, and what is too much, is dropped and counted.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>

#include "base/formatted.h"

namespace caravan::server {

// From now on, for log.h too. Opens what is missing of the descriptors 0 to 2 as /dev/null, so that no socket takes
// their places.
void begin_server_log();
// Writes what is still to be reported of lines that were left out. For the end of the process.
void end_server_log();

// Lines name this session from now on. `lines`: how many lines of each kind it may log at once; later ones
// are admitted one a second.
void begin_session_log(uint64_t session, uint32_t lines);
// How many of them were not logged yet. Any thread.
uint32_t unused_session_lines();

// Of a client at this address: none alone can cause so many lines that those of others are suppressed.
void event_line(const std::string & address, std::string_view line);
template <class... Args>
void log_event(const std::string & address, std::format_string<Args...> format, Args &&... args) {
    event_line(address, formatted(format, std::forward<Args>(args)...));
}

// For a person at the command line: one or more lines to stdout, an error to stderr. Neither stamped nor limited.
void print_lines(std::string_view lines);
void print_error(std::string_view text);

}  // namespace caravan::server
