// Records of a session for GGML_RPC_TRACE and GGML_RPC_STATS.
#include <algorithm>

#include "base/log.h"
#include "client/connection.h"
#include "client/reply_check.h"
#include "client/trace.h"

namespace caravan::client {

using wire::Command;

// Estimates the offset of the server's clock from the query with the shortest round trip.
void Connection::start_recording() {
    constexpr int queries = 16;
    if (is_native() && (Trace::instance().is_on() || stats_enabled())) {
        for (int i = 0; i < queries; ++i) {
            const uint64_t before = Trace::now_ns();
            const auto there = query<uint64_t>(static_cast<Command>(wire::NativeCommand::clock));
            const uint64_t took = Trace::now_ns() - before;
            if (there && took < min_round_trip_ns_) {
                min_round_trip_ns_ = took;
                clock_offset_ns_ = static_cast<int64_t>(*there - (before + took / 2));
            }
        }
    }
    if (Trace::instance().is_on() && clock_offset_ns_) {
        stream_.trace_as(endpoint_.text());
    }
    records_stats_ = stats_enabled();
    at_open_ = at_load_ = tally();
}

void Connection::finish_recording() {
    const Tally at_end = tally();
    SessionStats stats{.endpoint = endpoint_.text(),
                       .dialect = is_native() ? "native" : "stock",
                       .transport = std::string(stream_.transport_kind()),
                       .whole = at_end - at_open_,
                       .since_load = at_end - at_load_,
                       .weights = loading_.total()};
    if (clock_offset_ns_) {
        stats.round_trip_ns = min_round_trip_ns_;
        collect_spans(stats, Trace::now_ns());
    }
    if (records_stats_) {
        append_stats(stats);
    }
    if (Trace::instance().is_on() && clock_offset_ns_) {
        Trace::instance().write();
    }
}

// Adds the server's spans up to `end_ns` to the trace and, from the load on, to the stats.
void Connection::collect_spans(SessionStats & stats, uint64_t end_ns) {
    constexpr size_t max_replies = wire::max_recorded_spans / wire::spans_per_answer + 1;
    const auto load_end_ns = end_ns - static_cast<uint64_t>(stats.since_load.seconds * 1e9);
    const auto ahead_ns = static_cast<uint64_t>(*clock_offset_ns_);
    bool more = true;
    for (size_t replies = 0; more && replies < max_replies; ++replies) {
        const auto reply = std::make_unique<wire::SpansAnswer>();
        Lock lock(stream_.mutex());
        commands_->post(static_cast<Command>(wire::NativeCommand::spans));
        await_locked(lock, stream_.expect(mutable_bytes(reply.get(), sizeof *reply)));
        const uint32_t count = reply->count;
        if (const auto sound = check_spans(count, reply->spans, opened_ns_ + ahead_ns, end_ns - opened_ns_); !sound) {
            log_warning("RPC server {}: its remaining spans are not recorded: {}", endpoint_.text(), sound.error().text);
            return;
        }
        for (const wire::Span & span : std::span(reply->spans).first(count)) {
            const size_t line = span.what < wire::first_computing ? 0 : span.what - wire::first_computing + 1u;
            const uint64_t begin = span.begin - ahead_ns;
            const uint64_t end = span.end - ahead_ns;
            if (begin >= load_end_ns && begin < end_ns) {
                stats.served_ns[wire::span_name(span.what)] += end - begin;
            }
            if (Trace::instance().is_on()) {
                Trace::instance().add_remote(wire::span_name(span.what), endpoint_.text(), line, begin, end);
            }
        }
        more = count == wire::spans_per_answer;
    }
}

Tally Connection::tally() const {
    return {stream_.counts(), launches_, static_cast<double>(Trace::now_ns() - opened_ns_) / 1e9};
}

}  // namespace caravan::client
