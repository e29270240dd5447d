// Weights on their way to one server: how many, how quickly, and how many of them the server had already. Told in one
// line of the log when the first graph is launched; or, if it takes a while and there is a terminal, in a line there
// that is rewritten meanwhile, and finished when the buffers that get weights are full.
//
// Threads: one at a time. Time is passed in.
#pragma once

#include <functional>
#include <set>
#include <string>
#include <string_view>

#include "base/clock.h"

namespace caravan::client {

struct LoadedWeights {
    uint64_t bytes = 0;
    uint64_t from_cache = 0;  // of these: the server had them, in its cache or in a model file
    Clock::duration time{};

    double seconds() const;
    double gigabytes_per_second() const;
    std::string share_text() const;  // ", 40 % from its cache", or nothing
    std::string text() const;        // "1.2 GiB of weights in 1.10 s (1.17 GB/s), 40 % from its cache"
};

class Loading {
public:
    using Terminal = std::function<void(std::string_view)>;

    // `terminal` takes text with control characters, at most five times a second; empty: there is none.
    Loading(std::string_view endpoint, Terminal terminal);

    bool is_under_way() const { return !buffers_.empty(); }
    // Before each weight, which goes into a buffer of this size that has weights only.
    void begin(uint64_t buffer, uint64_t buffer_size, TimePoint time);
    // The weight was sent, or the server has answered that it has it. Others may have begun meanwhile.
    void add(uint64_t bytes, bool from_cache, TimePoint time);
    // All weights of a model are there, if any were loaded.
    void end();

    // Of all models that were loaded.
    const LoadedWeights & total() const { return total_; }

private:
    bool is_nearly_done() const;
    void finish_line();

    const std::string endpoint_;
    const Terminal terminal_;
    LoadedWeights now_, total_;
    TimePoint begin_{}, shown_{};
    std::set<uint64_t> buffers_;  // that have got weights
    uint64_t expected_ = 0;       // their sizes
    uint64_t pieces_ = 0;         // weights, or parts of them
    uint64_t told_ = 0;           // bytes, in the last line on the terminal that was finished
    bool is_shown_ = false;       // a line is not: what the program says next would be added to it
};

// This process's stderr, if it is a terminal.
Loading::Terminal stderr_terminal();

// A line for the person who waits: on the terminal behind stderr, where there is one, even if the program hides its log; else
// an error of the log, since many programs show nothing less while they load.
void tell_person(const std::string & line);

}  // namespace caravan::client
