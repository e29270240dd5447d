#include "base/size_text.h"

#include <array>

#include "base/formatted.h"

namespace caravan {

std::string size_text(uint64_t bytes) {
    constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        return formatted("{} bytes", bytes);
    }
    size_t unit = 0;
    for (; unit + 1 < units.size() && bytes >= 1024 * 1024; ++unit) {
        bytes /= 1024;
    }
    const uint64_t tenths = bytes * 10 / 1024;
    return tenths % 10 == 0 ? formatted("{} {}", tenths / 10, units[unit])
                            : formatted("{}.{} {}", tenths / 10, tenths % 10, units[unit]);
}

}  // namespace caravan
