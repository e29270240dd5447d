// Wall-clock time stamps for logs.
#pragma once

#include <chrono>
#include <string>

namespace caravan {

// Local time with its offset from UTC: "2026-01-31T09:05:07.042+01:00". Thread-safe.
std::string timestamp(std::chrono::system_clock::time_point time);

}  // namespace caravan
