// Predicts the command that follows a launch, from the one that followed the graph's last launch without delay.
//
//   a read by the program          The read is sent with the launch, which returns when the result begins to arrive. The
//                                  program's read then receives the result: a prefetch.
//   a read for a relay, or a push  The launch is held in the batch until that command, and both are sent together.
//   unknown, for a new graph       The launch is confirmed by a read of the graph's output, which costs a round trip; not if
//                                  many new graphs follow each other and their results take less than short_step.
//
// A program that launches again before it awaits its last read has several batches in flight: its launches return once they
// are queued. A misprediction costs one send, once: the next launch of the graph is sent immediately.
//
// Bookkeeping only: no I/O. One object per connection, guarded by the connection's lock. `now` is the time of ProgramClock: how
// far the servers are, and how long the program waited for another one, do not make a read less immediate.
#pragma once

#include <optional>

#include "base/clock.h"
#include "client/encode/commands.h"
#include "tunables/client.h"

namespace caravan::client {

class LaunchPrediction {
public:
    // A read that follows a launch within this time is immediate.
    static constexpr microseconds immediate_read_limit = tunable::immediate_read_limit;
    // More new graphs than this in a row are not confirmed, if the last result took less than short_step.
    static constexpr int max_new_graphs = tunable::max_new_graphs;
    static constexpr milliseconds short_step = tunable::short_step;

    // The program launches a graph. Call this before launched(), and after the launch before it was closed by end_launch().
    void begin_launch();
    // The launch was appended to the batch. `graph` is null if the server does not store the graph; otherwise it must live
    // until the next command.
    void launched(KeptGraph * graph, TimePoint now);
    // These choose what to do with it.
    const ResultRead * predicted_read() const;  // null: none
    bool should_confirm() const;
    void prefetch(const ResultRead & read) { prefetched_ = read; }
    bool hold();  // false: send it now
    // The result of a launch that was confirmed, or whose read was prefetched, begins to arrive.
    void result_arrived(std::chrono::nanoseconds after, TimePoint now);

    // The next command is a read, or a push: records it as the graph's habit. `read` is set if the program reads.
    void record_habit(std::optional<ResultRead> read, TimePoint now);
    // The next command is a sum over several servers: the graph's next launch is held for it, however long that takes.
    void record_reduction();
    // The next command is another one. True if the launch was held, and must be sent.
    bool end_launch();

    // The prefetched read, which was sent but not requested by the program yet.
    bool has_prefetched() const { return prefetched_.has_value(); }
    bool is_prefetched(const ResultRead & read) const { return prefetched_ == read; }
    void take_prefetched();
    void discard_prefetched();  // a misprediction

    // The numbers of the tickets of the program's last read, and of an awaited reply.
    void record_read(uint64_t ticket) { last_read_ = ticket; }
    void record_await(uint64_t ticket);

private:
    KeptGraph * held_ = nullptr;
    KeptGraph * last_ = nullptr;  // set if the previous command launched it
    TimePoint last_time_{};
    std::optional<ResultRead> prefetched_;
    uint64_t last_read_ = 0;      // since the last launch; 0: none
    uint64_t last_awaited_ = 0;
    bool reads_overlap_ = false;  // the program has several batches in flight
    int consecutive_new_graphs_ = 0;
    std::chrono::nanoseconds last_result_time_{};  // from a launch until its result began to arrive
};

}  // namespace caravan::client
