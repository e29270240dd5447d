// Counts in JSON that another program printed.
#pragma once

#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace caravan::bench {

// The library converts any number to the type that is asked for, which is undefined behaviour for 1e30, and makes a
// large number of -1. Throws std::out_of_range if `value` is no count, or does not fit.
template <std::unsigned_integral T>
T count(const nlohmann::json & value) {
    if (!value.is_number_unsigned() || !std::in_range<T>(value.get<uint64_t>())) {
        throw std::out_of_range(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + " is no count");
    }
    return value.get<T>();
}

}  // namespace caravan::bench
