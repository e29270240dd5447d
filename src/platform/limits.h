// Limits of resources that the system keeps for a process. Failures to set one are ignored.
#pragma once

#include <cstdint>
#include <optional>

#include "platform/process_control.h"

namespace caravan::platform {

void limit_core_dumps(uint64_t bytes);
// Bounds the memory for data, mapped or not, of this process.
void limit_data(uint64_t bytes);

// The number of open handles (RLIMIT_NOFILE).
struct OpenFileLimit {
    uint64_t now, most;  // the process may raise `now` up to `most`
};
// std::nullopt if the system does not report it.
std::optional<OpenFileLimit> open_file_limit();
void set_open_file_limit(OpenFileLimit limit);
// Sets both numbers of another process. Linux only.
void set_open_file_limit_of(ProcessId process, uint64_t most);

}  // namespace caravan::platform
