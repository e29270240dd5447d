#include "base/formatted.h"

namespace caravan {

std::string format_with(std::string_view format, std::format_args args) { return std::vformat(format, args); }

}  // namespace caravan
