// A program that is run to its end, with what it said.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"

namespace caravan::bench {

// Changes to this process's environment; "" unsets.
using Environment = std::map<std::string, std::string>;

struct Child {
    struct Line {
        TimePoint at;  // when this process read its end
        std::string text;
    };
    int status = 0;  // as waitpid gives it
    std::string out;
    std::vector<Line> err;

    bool succeeded() const { return status == 0; }
    std::string how_it_ended() const;    // "exit code 1", "signal 11 (Segmentation fault)"
    std::string last_words() const;      // the last lines of its stderr, in one line
};

// argv[0] is a path. Its stdin is empty. It is killed at the deadline, which is Errc::timed_out, and when this process is
// asked to end (SIGINT, SIGTERM, SIGHUP), which then does. One at a time in a process.
Result<Child> run_child(const std::vector<std::string> & argv, const Environment & changes, TimePoint deadline);

}  // namespace caravan::bench
