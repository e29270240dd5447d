// Other processes and signals.
#pragma once

#include <initializer_list>
#include <string>

#include "platform/unique_fd.h"

namespace caravan::platform {

using ProcessId = int;

void kill_process(ProcessId process);

// Conditions that would end this process unless it ignores their signals.
enum class Condition {
    interrupt,      // ^C, which reaches the whole process group
    broken_pipe,    // then the write fails
    file_too_long,  // the same
    broken_lease,   // another process opens a file of which this one tests has_no_writer()
};
void ignore(std::initializer_list<Condition> conditions);

// How a process ended.
struct ExitStatus {
    int code = 0;    // if `signal` is 0
    int signal = 0;  // that ended it
    bool is_success() const { return code == 0 && signal == 0; }
    std::string text() const;  // "exit code 1", "signal 11 (Segmentation fault)"
};
ExitStatus wait_for(ProcessId child);  // blocks

// Ends this process at once: no destructors, no exit handlers.
[[noreturn]] void end_process(int code);

// The lowest priority for the processor.
void lower_priority();

// Closes all handles above the standard streams but `kept`, and replaces stdin by an empty file. Linux only: elsewhere the
// handles stay open.
void close_inherited(Descriptor kept);

}  // namespace caravan::platform
