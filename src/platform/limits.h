// Limits of resources that the system keeps for this process. Failures are ignored.
#pragma once

#include <cstdint>

namespace caravan::platform {

void limit_core_dumps(uint64_t bytes);
// Bounds the memory for data, mapped or not, of this process.
void limit_data(uint64_t bytes);

}  // namespace caravan::platform
