#include "base/timestamp.h"

#include <ctime>

#include "base/formatted.h"

namespace caravan {

std::string timestamp(std::chrono::system_clock::time_point time) {
    const auto since_epoch = std::chrono::floor<std::chrono::milliseconds>(time.time_since_epoch());
    const auto whole = std::chrono::floor<std::chrono::seconds>(since_epoch);
    const std::time_t count = whole.count();
    std::tm local{};
    ::localtime_r(&count, &local);
    const long offset = local.tm_gmtoff / 60;  // minutes
    const long distance = offset < 0 ? -offset : offset;
    return formatted("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}.{:03}{}{:02}:{:02}", local.tm_year + 1900, local.tm_mon + 1,
                     local.tm_mday, local.tm_hour, local.tm_min, local.tm_sec, (since_epoch - whole).count(),
                     offset < 0 ? '-' : '+', distance / 60, distance % 60);
}

}  // namespace caravan
