// Records a session for GGML_RPC_STATS and GGML_RPC_TRACE: its counts when it was opened, when weights were loaded and when it
// ends, and the spans that a native server recorded, converted to this process's clock.
//
// Does no I/O on the connection: the caller passes the queries. Threads: externally synchronized.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>

#include "base/error.h"
#include "client/observe/stats.h"
#include "client/session/stream_counts.h"
#include "wire/native.h"

namespace caravan::client {

class SessionRecorder {
public:
    // Returns the server's clock in ns.
    using QueryClock = std::function<Result<uint64_t>()>;
    // Receives the next spans of the server. On failure the reply has none.
    using FetchSpans = std::function<void(wire::SpansReply & reply)>;

    SessionRecorder();

    // Estimates the offset of the server's clock if stats or a trace were requested. Call this for native servers only; without
    // it no spans are fetched.
    void synchronize_clock(const QueryClock & query);
    // Whether the session appears in the trace.
    bool is_traced() const;

    void count_launch() { ++launches_; }
    uint64_t launches() const { return launches_; }

    // The program received the session / the weights of a model were loaded.
    void opened(const StreamCounts & counts);
    void loaded(const StreamCounts & counts) { at_load_ = tally(counts); }
    // Sets the counts of `stats` so far, which has the endpoint, dialect, transport and weights.
    void count(SessionStats & stats, const StreamCounts & counts) const;
    // Adds what the server recorded, and writes the stats and the trace, as far as they were requested. count() was applied.
    void finish(SessionStats stats, const FetchSpans & fetch);

private:
    Tally tally(const StreamCounts & counts) const;
    void collect_spans(SessionStats & stats, uint64_t end_ns, const FetchSpans & fetch);

    const uint64_t opened_ns_;
    bool has_stats_ = false;  // for GGML_RPC_STATS
    std::optional<int64_t> clock_offset_ns_;   // server clock minus ours
    uint64_t min_round_trip_ns_ = UINT64_MAX;  // of the clock queries
    uint64_t launches_ = 0;
    Tally at_open_, at_load_;
};

}  // namespace caravan::client
