// GGML_RPC_STATS=FILE: what each session did, as one line of JSON that is added to the file when the session ends.
//
// Threads: any. Several processes may write to one file.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "client/loading.h"
#include "client/stream_counts.h"

namespace caravan::client {

// Of a session, or a part of it.
struct Tally {
    StreamCounts stream;
    uint64_t launches = 0;  // graphs that were sent to be computed
    double seconds = 0;

    Tally operator-(const Tally & before) const {
        return {stream - before.stream, launches - before.launches, seconds - before.seconds};
    }
};

struct SessionStats {
    std::string endpoint, dialect, transport;
    Tally whole;
    Tally since_load;  // from the first launch after weights were loaded
    LoadedWeights weights;
    // Of a server that speaks the native dialect: the quickest round trip of a small question, and how long it was busy
    // with what since the load, by the name of the command. It remembers its last 262144 commands.
    std::optional<uint64_t> round_trip_ns;
    std::map<std::string, uint64_t> served_ns;
};

// A string of JSON. An endpoint may be the path of a socket, with any character in it.
std::string json_string(std::string_view text);

bool stats_are_wanted();
std::string to_json(const SessionStats & stats);  // one line
void append_stats(const SessionStats & stats);

}  // namespace caravan::client
