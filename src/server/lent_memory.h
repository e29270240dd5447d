// How much memory a server reports for each of its devices.
#pragma once

#include <cstdint>
#include <span>

#include "server/devices.h"

namespace caravan::server {

// Programs spread a model over devices by what each reports, so together the devices must not report more than a
// session may have. Device `index` reports its own memory, and of `max_bytes` (in all) and `rest` (still free) no more
// than its part: in proportion to the total memory of the devices.
DeviceMemory lent_memory(std::span<const DeviceMemory> devices, size_t index, uint64_t max_bytes, uint64_t rest);

}  // namespace caravan::server
