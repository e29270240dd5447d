// Views of raw memory, and unaligned loads and stores. ggml's RPC protocol is little-endian, on the wire and on every
// machine that it supports, so no byte order is converted.
#pragma once

#include <bit>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <type_traits>

namespace caravan {

static_assert(std::endian::native == std::endian::little, "the RPC wire format is little-endian");

using ConstBytes = std::span<const std::byte>;
using MutableBytes = std::span<std::byte>;

inline ConstBytes const_bytes(const void * data, size_t size) { return {static_cast<const std::byte *>(data), size}; }
inline MutableBytes mutable_bytes(void * data, size_t size) { return {static_cast<std::byte *>(data), size}; }

template <class T>
    requires std::is_trivially_copyable_v<T>
T load(const std::byte * from) {
    T value;
    std::memcpy(&value, from, sizeof value);
    return value;
}

template <class T>
    requires std::is_trivially_copyable_v<T>
void store(std::byte * to, const T & value) {
    std::memcpy(to, &value, sizeof value);
}

}  // namespace caravan
