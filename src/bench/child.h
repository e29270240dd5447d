// Runs a program to its end and collects its output.
#pragma once

#include <map>
#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "platform/child_process.h"

namespace caravan::bench {

// Changes to the environment of this process; "" unsets a variable.
using Environment = std::map<std::string, std::string>;

struct Child {
    struct Line {
        TimePoint at;  // when this process read the newline
        std::string text;
    };
    platform::ExitStatus status;
    std::string out;
    std::vector<Line> err;

    bool succeeded() const { return status.is_success(); }
    std::string exit_text() const { return status.text(); }  // "exit code 1", "signal 11 (Segmentation fault)"
    std::string last_lines() const;  // the last lines of its stderr, joined by " | "
};

// Runs `argv` (argv[0] is a path) with empty stdin. At the deadline the child is killed: Errc::timed_out. On SIGINT, SIGTERM
// and SIGHUP the child is killed and the signal is raised again. Only one call at a time in a process.
Result<Child> run_child(const std::vector<std::string> & argv, const Environment & changes, TimePoint deadline);

}  // namespace caravan::bench
