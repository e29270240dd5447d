#include "base/error.h"

#include <system_error>

namespace caravan {

std::string errno_text(int value) { return std::generic_category().message(value); }

}  // namespace caravan
