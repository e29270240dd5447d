// What a server's replies may contain. ggml computes with these values, and aborts the program or writes beyond its
// memory if they break its rules; so each is checked before anything else sees it. docs/protocol.md has the table.
//
// Each check returns nothing if the reply is within its bounds, else Errc::protocol with what the server claimed.
#pragma once

#include <cstdint>
#include <span>

#include "base/error.h"
#include "wire/native.h"

namespace caravan::client {

inline constexpr uint32_t max_devices = 128;               // of one server: of eight GPUs in seven parts each, twice
inline constexpr uint64_t max_alignment = 2 << 20;        // bytes: a huge page. ggml adds aligned sizes without a check
inline constexpr uint64_t max_device_memory = 1ull << 50;  // bytes. Programs add the memory of all devices in 64 bits
inline constexpr uint64_t max_tensor_size = 1ull << 44;    // bytes on the device, as above

Result<> check_device_count(uint32_t count);
Result<> check_alignment(uint64_t alignment);
Result<> check_max_size(uint64_t bytes);
// Free memory may exceed the total, as some drivers report it: the caller uses the smaller one.
Result<> check_memory(wire::DeviceMemoryAnswer memory);
Result<> check_alloc_size(uint64_t bytes);
// A buffer of `size` bytes was asked for, on a device with this alignment. The handle is not 0.
Result<> check_buffer(const wire::AllocBufferAnswer & answer, uint64_t base, uint64_t size, uint64_t alignment);
// One byte: 0 or 1.
Result<> check_flag(uint8_t flag);
// Of a session that began at `opened`, on the server's clock as the client estimates it, and is `age` old, both in ns.
Result<> check_spans(uint32_t count, std::span<const wire::Span> spans, uint64_t opened, uint64_t age);

}  // namespace caravan::client
