// The frames of a request (u8 command, u64 payload size, payload) and of a reply (u64 payload size, payload). Layout only.
#pragma once

#include <array>

#include "wire/stock.h"

namespace caravan::wire {

// The header alone. `size` bytes of payload follow separately.
inline std::array<std::byte, sizeof(RequestHeader)> frame_header(Command command, uint64_t size = 0) {
    std::array<std::byte, sizeof(RequestHeader)> out;
    store(out.data(), RequestHeader{command, size});
    return out;
}

// Header and payload. `extra` more bytes of payload follow separately.
template <class Payload>
std::array<std::byte, sizeof(RequestHeader) + sizeof(Payload)> frame(Command command, const Payload & payload,
                                                                     uint64_t extra = 0) {
    std::array<std::byte, sizeof(RequestHeader) + sizeof(Payload)> out;
    store(out.data(), RequestHeader{command, sizeof payload + extra});
    store(out.data() + sizeof(RequestHeader), payload);
    return out;
}

// A reply with its payload.
template <class Payload>
std::array<std::byte, sizeof(uint64_t) + sizeof(Payload)> reply_frame(const Payload & payload) {
    std::array<std::byte, sizeof(uint64_t) + sizeof(Payload)> out;
    store(out.data(), uint64_t{sizeof payload});
    store(out.data() + sizeof(uint64_t), payload);
    return out;
}

}  // namespace caravan::wire
