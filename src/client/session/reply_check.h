// Bounds of the values in a server's replies. ggml computes with these values, and aborts the program or writes beyond its
// memory if they break its rules, so each is checked before any use. docs/protocol.md has the table.
//
// Each check fails with Errc::protocol and the value if it is out of bounds.
#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"
#include "wire/native.h"

namespace caravan::client {

inline constexpr uint32_t max_devices = 128;               // per server: twice eight GPUs of seven MIG instances
inline constexpr uint64_t max_alignment = 2 << 20;         // bytes: a huge page. ggml adds aligned sizes unchecked
inline constexpr uint64_t max_device_memory = 1ull << 50;  // bytes. Programs add the memory of all devices in 64 bits
inline constexpr uint64_t max_tensor_size = 1ull << 44;    // bytes on the device; programs add these too

Result<> check_device_count(uint32_t count);
Result<> check_alignment(uint64_t alignment);
Result<> check_max_size(uint64_t bytes);
// Free memory may exceed the total, because some drivers report that: use the smaller one.
Result<> check_memory(wire::DeviceMemoryReply memory);
Result<> check_alloc_size(uint64_t bytes);
// The reply to a request for `size` bytes on a device with this alignment. The handle is not 0.
Result<> check_buffer(const wire::AllocBufferReply & reply, uint64_t base, uint64_t size, uint64_t alignment);
// One byte: 0 or 1.
Result<> check_flag(uint8_t flag);
Result<> check_algorithm(const wire::AlgorithmReply & reply);
// Spans of a session that was opened at `opened` (server's clock, as estimated by the client) and is `age` old, in ns.
Result<> check_spans(uint32_t count, std::span<const wire::Span> spans, uint64_t opened, uint64_t age);

}  // namespace caravan::client
