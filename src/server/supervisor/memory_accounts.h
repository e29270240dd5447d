// The supervisor's accounts of host memory, which sessions on CPU devices share. The kernel commits memory when it is touched,
// so memory that a session has allocated and not yet touched looks available.
#pragma once

#include <cstdint>
#include <span>

#include "platform/process_control.h"

namespace caravan::server {

// Bytes available without swapping (MemAvailable); UINT64_MAX if unknown.
uint64_t available_memory();
// Resident bytes of the process; 0 if unknown.
uint64_t resident_memory(platform::ProcessId process);

// Host memory of one session, in bytes.
struct Holding {
    uint64_t allocated = 0;  // buffers of CPU devices
    uint64_t touched = 0;    // resident bytes of these buffers, without other memory of the process
};
// `available` less the bytes that sessions have allocated and not touched.
uint64_t unpromised(uint64_t available, std::span<const Holding> sessions);
// Whether a session that has touched `touched` bytes may allocate `bytes` in total. Without other sessions the limit is the
// kernel's: a lone session may exceed the available memory and map its buffers from files.
bool may_allocate(uint64_t bytes, uint64_t touched, uint64_t available, std::span<const Holding> others);

}  // namespace caravan::server
