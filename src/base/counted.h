// A number with its noun: "1 session", "16 sessions".
#pragma once

#include <cstdint>

#include "base/formatted.h"

namespace caravan {

// `noun` is in the singular, and forms its plural with an s.
inline std::string counted(uint64_t n, std::string_view noun) { return formatted("{} {}{}", n, noun, n == 1 ? "" : "s"); }

}  // namespace caravan
