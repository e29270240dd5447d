#include "client/observe/session_recorder.h"

#include <memory>
#include <span>

#include "base/log.h"
#include "client/observe/trace.h"
#include "client/session/reply_check.h"
#include "wire/reduction_spans.h"

namespace caravan::client {

SessionRecorder::SessionRecorder() : opened_ns_(Trace::now_ns()) {}

// The query with the shortest round trip has the most precise offset.
void SessionRecorder::synchronize_clock(const QueryClock & query) {
    constexpr int queries = 16;
    if (!Trace::instance().is_on() && !stats_enabled()) {
        return;
    }
    for (int i = 0; i < queries; ++i) {
        const uint64_t before = Trace::now_ns();
        const auto there = query();
        const uint64_t took = Trace::now_ns() - before;
        if (there && took < min_round_trip_ns_) {
            min_round_trip_ns_ = took;
            clock_offset_ns_ = static_cast<int64_t>(*there - (before + took / 2));
        }
    }
}

bool SessionRecorder::is_traced() const { return Trace::instance().is_on() && clock_offset_ns_; }

void SessionRecorder::opened(const StreamCounts & counts) {
    has_stats_ = stats_enabled();
    at_open_ = at_load_ = tally(counts);
}

void SessionRecorder::count(SessionStats & stats, const StreamCounts & counts) const {
    const Tally now = tally(counts);
    stats.whole = now - at_open_;
    stats.since_load = now - at_load_;
    if (clock_offset_ns_) {
        stats.round_trip_ns = min_round_trip_ns_;
    }
}

void SessionRecorder::finish(SessionStats stats, const FetchSpans & fetch) {
    if (clock_offset_ns_) {
        collect_spans(stats, Trace::now_ns(), fetch);
    }
    if (has_stats_) {
        append_stats(stats);
    }
    if (is_traced()) {
        Trace::instance().write();
    }
}

// Adds the server's spans up to `end_ns` to the trace and, from the load on, to the stats.
void SessionRecorder::collect_spans(SessionStats & stats, uint64_t end_ns, const FetchSpans & fetch) {
    constexpr size_t max_replies = wire::max_recorded_spans / wire::spans_per_reply + 1;
    const auto load_end_ns = end_ns - static_cast<uint64_t>(stats.since_load.seconds * 1e9);
    const auto offset_ns = static_cast<uint64_t>(*clock_offset_ns_);
    bool more = true;
    for (size_t replies = 0; more && replies < max_replies; ++replies) {
        const auto reply = std::make_unique<wire::SpansReply>();
        fetch(*reply);
        const uint32_t count = reply->count;
        if (const auto sound = check_spans(count, reply->spans, opened_ns_ + offset_ns, end_ns - opened_ns_); !sound) {
            log_warning("RPC server {}: its remaining spans are not recorded: {}", stats.endpoint, sound.error().text);
            return;
        }
        for (const wire::Span & span : std::span(reply->spans).first(count)) {
            const size_t line = span.what < wire::first_computing ? 0 : span.what - wire::first_computing + 1u;
            const uint64_t begin = span.begin - offset_ns;
            const uint64_t end = span.end - offset_ns;
            if (begin >= load_end_ns && begin < end_ns && !wire::is_part_of_reduction(span.what)) {
                stats.served_ns[wire::span_name(span.what)] += end - begin;
            }
            if (Trace::instance().is_on()) {
                Trace::instance().add_remote(wire::span_name(span.what), stats.endpoint, line, begin, end);
            }
        }
        more = count == wire::spans_per_reply;
    }
}

Tally SessionRecorder::tally(const StreamCounts & counts) const {
    return {counts, launches_, static_cast<double>(Trace::now_ns() - opened_ns_) / 1e9};
}

}  // namespace caravan::client
