// Facts about this machine, user and process.
#pragma once

#include <cstdint>
#include <optional>
#include <string>

namespace caravan::platform {

std::string host_name();
std::string kernel_version();  // "Linux 6.12.1"

// The limit of locked memory, in bytes; std::nullopt if there is none.
std::optional<uint64_t> locked_memory_limit();

// True for root, whom no such limit binds.
bool is_superuser();

}  // namespace caravan::platform
