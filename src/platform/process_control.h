// Other processes and signals.
#pragma once

#include <initializer_list>
#include <optional>
#include <string>

#include "platform/unique_fd.h"

namespace caravan::platform {

using ProcessId = int;
ProcessId own_process();

enum class Signal {
    interrupt,  // SIGINT: requests to end, as ^C
    terminate,  // SIGTERM: requests to end
    kill,       // SIGKILL: ends the process
};
void send_signal(ProcessId process, Signal signal);

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

struct ChildEvent {
    enum class Kind { stopped, continued, exited };  // stopped, continued: by a signal, for example of a debugger
    Kind kind;
    ProcessId process;
    ExitStatus status;  // of an exited one
};
// The next change of any child process; std::nullopt: none is pending. Never blocks. After Kind::exited the system may give the
// id to another process.
std::optional<ChildEvent> next_child_event();

// Ends this process at once: no destructors, no exit handlers.
[[noreturn]] void end_process(int code);

// The lowest priority for the processor.
void lower_priority();

// Closes all handles above the standard streams but `kept`, and replaces stdin by an empty file. Linux only: elsewhere the
// handles stay open.
void close_inherited(Descriptor kept);

}  // namespace caravan::platform
