// "1 session", "16 sessions".
#pragma once

#include <cstdint>

#include "base/formatted.h"

namespace caravan {

// `noun`: in the singular, of which the plural ends with an s.
inline std::string counted(uint64_t n, std::string_view noun) { return formatted("{} {}{}", n, noun, n == 1 ? "" : "s"); }

}  // namespace caravan
