// Bytes that tests send and compare.
#pragma once

#include <cstdint>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"

namespace caravan::test {

template <class T>
std::vector<std::byte> bytes_of(const T & value) {
    std::vector<std::byte> out(sizeof value);
    std::memcpy(out.data(), &value, sizeof value);
    return out;
}

inline std::vector<std::byte> bytes_of(std::string_view text) {
    const auto view = const_bytes(text.data(), text.size());
    return {view.begin(), view.end()};
}

inline std::string text_of(ConstBytes bytes) {
    return {reinterpret_cast<const char *>(bytes.data()), bytes.size()};
}

inline std::vector<std::byte> operator+(std::vector<std::byte> left, const std::vector<std::byte> & right) {
    left.insert(left.end(), right.begin(), right.end());
    return left;
}

// Pseudo-random bytes.
inline std::vector<std::byte> noise(size_t size, uint32_t seed = 1) {
    std::vector<std::byte> out(size);
    for (std::byte & b : out) {
        seed = seed * 1664525 + 1013904223;
        b = static_cast<std::byte>(seed >> 24);
    }
    return out;
}

}  // namespace caravan::test
