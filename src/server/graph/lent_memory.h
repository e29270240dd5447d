// The amount of memory that a server reports for each of its devices.
#pragma once

#include <cstdint>
#include <span>

#include "server/graph/devices.h"

namespace caravan::server {

// Programs distribute a model according to the memory that each device reports, so the sum of the reports must not exceed the
// session's limit. Returns the memory of device `index`, capped by its share of `max_bytes` (the session's limit) and of
// `remaining` (the unused part of it). Shares are proportional to the devices' total memory.
DeviceMemory lent_memory(std::span<const DeviceMemory> devices, size_t index, uint64_t max_bytes, uint64_t remaining);

}  // namespace caravan::server
