#include "base/environment.h"

#include <cstdlib>

namespace caravan {

std::string_view text_of_variable(const char * name) {
    const char * value = std::getenv(name);
    return value == nullptr ? std::string_view() : value;
}

std::string_view text_of(const Variable & variable) { return text_of_variable(variable.name); }

bool is_set(const Variable & variable) { return std::getenv(variable.name) != nullptr; }

}  // namespace caravan
