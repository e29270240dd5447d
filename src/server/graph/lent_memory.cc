#include "server/graph/lent_memory.h"

#include <algorithm>

namespace caravan::server {

DeviceMemory lent_memory(std::span<const DeviceMemory> devices, size_t index, uint64_t max_bytes, uint64_t remaining) {
    __extension__ using Wide = unsigned __int128;
    Wide all = 0;
    for (const DeviceMemory & device : devices) {
        all += device.total;
    }
    const DeviceMemory & own = devices[index];
    const auto share_of = [&](uint64_t bytes) {
        return all <= bytes ? own.total : static_cast<uint64_t>(Wide{bytes} * own.total / all);
    };
    return {std::min(own.free, share_of(remaining)), share_of(max_bytes)};
}

}  // namespace caravan::server
