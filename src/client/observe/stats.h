// GGML_RPC_STATS=FILE: the counts of each session, as one line of JSON that is appended to the file when the session ends.
//
// Threads: any. Several processes may write to one file.
#pragma once

#include <map>
#include <optional>
#include <string>
#include <string_view>

#include "client/session/stream_counts.h"
#include "client/weights/loading.h"
#include "net/transport.h"

namespace caravan::client {

// Counts of a session, or of a part of it.
struct Tally {
    StreamCounts stream;
    uint64_t launches = 0;  // graphs sent for computation
    double seconds = 0;

    Tally operator-(const Tally & before) const {
        return {stream - before.stream, launches - before.launches, seconds - before.seconds};
    }
};

struct SessionStats {
    std::string endpoint, dialect;
    net::TransportKind transport = net::TransportKind::tcp;  // the last one
    uint32_t queue_pairs = 0;   // of RDMA, at the end
    uint32_t replacements = 0;  // of the connection
    Tally whole;
    Tally since_load;  // since the first launch after weights were loaded
    LoadedWeights weights;
    // Native servers only: the shortest round trip of a small query, and the server's busy time since the load by command
    // name. The server records its last 262144 commands.
    std::optional<uint64_t> round_trip_ns;
    std::map<std::string, uint64_t> served_ns;
};

// A quoted JSON string. The endpoint of a Unix socket may contain any character.
std::string json_string(std::string_view text);

bool stats_enabled();
std::string to_json(const SessionStats & stats);  // one line
void append_stats(const SessionStats & stats);

}  // namespace caravan::client
