// The progress of loading weights to one server: bytes, rate, and the share that the server already had. Logs one line when
// the first graph is launched. If loading takes a while and stderr is a terminal, redraws a line there instead, and
// completes it when the weight buffers are full.
//
// Threads: externally synchronized. Time is passed in.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace caravan::client {

struct LoadedWeights {
    uint64_t bytes = 0;
    uint64_t from_cache = 0;  // of these, bytes that the server already had, in its cache or in a model file
    Clock::duration time{};

    double seconds() const;
    double gigabytes_per_second() const;
    std::string share_text() const;  // ", 40 % already on the server", or "" if from_cache is 0
    std::string text() const;        // "1.2 GiB of weights in 1.10 s (1.17 GB/s), 40 % already on the server"
};

class Loading {
public:
    using Terminal = std::function<void(std::string_view)>;

    // `terminal` receives text with control characters, at most five times a second; empty if there is no terminal.
    Loading(std::string_view endpoint, Terminal terminal);

    bool is_under_way() const { return !buffers_.empty(); }
    // Call before each weight. The buffer has this size and holds weights only.
    void begin(uint64_t buffer, uint64_t buffer_size, TimePoint time);
    // Call when the weight was sent, or when the server has replied that it has it. Weights may overlap in time.
    void add(uint64_t bytes, bool from_cache, TimePoint time);
    // Call when all weights of a model were loaded. Does nothing if none were.
    void end();

    // The sum over all models.
    const LoadedWeights & total() const { return total_; }

private:
    bool is_nearly_done() const;
    void finish_line();

    const std::string endpoint_;
    const Terminal terminal_;
    LoadedWeights current_, total_;
    TimePoint begin_{}, shown_{};
    std::set<uint64_t> buffers_;   // that received weights
    uint64_t expected_ = 0;        // sum of their sizes
    uint64_t pieces_ = 0;          // weights, or parts of them
    uint64_t reported_bytes_ = 0;  // in the last completed line on the terminal
    bool is_line_open_ = false;    // the line on the terminal has no newline yet
};

// This process's stderr, or empty if that is not a terminal.
Loading::Terminal stderr_terminal();

// Notifies the user while the program waits: on the terminal, even if the program hides its log; without a terminal, as an
// error in the log, because many programs hide all lower levels while they load.
void notify_user(const std::string & line);

}  // namespace caravan::client
