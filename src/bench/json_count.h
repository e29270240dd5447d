// Reads counts from JSON that another program printed.
#pragma once

#include <concepts>
#include <cstdint>
#include <nlohmann/json.hpp>
#include <stdexcept>
#include <string>
#include <utility>

namespace caravan::bench {

// get<T>() alone converts any number: -1 becomes a large number, and 1e30 is undefined behaviour. Throws std::out_of_range if
// `value` is not a count, or does not fit into T.
template <std::unsigned_integral T>
T count(const nlohmann::json & value) {
    if (!value.is_number_unsigned() || !std::in_range<T>(value.get<uint64_t>())) {
        throw std::out_of_range(value.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace) + " is not a count");
    }
    return value.get<T>();
}

}  // namespace caravan::bench
