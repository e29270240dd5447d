// Starts programs in processes of their own.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"
#include "platform/process_control.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

struct Command {
    std::string program;                   // a path
    std::vector<std::string> arguments;    // begin with the program's name
    std::vector<std::string> environment;  // "NAME=VALUE"
    bool has_input = true;                 // false: stdin is an empty file
    Descriptor out = -1, err = -1;         // stdout and stderr; -1: those of this process
    // Starts it with no signal blocked, and with the default action of the signals that CaughtSignals changes. Otherwise what
    // this process blocks and ignores stays blocked and ignored.
    bool resets_signals = false;
};

// Starts the program, which inherits the handles that are made to be inherited. The caller must wait for the process
// (wait_for() or next_child_event()). Errc::unavailable on failure; the error's text is the system's reason.
Result<ProcessId> spawn(const Command & command);

}  // namespace caravan::platform
