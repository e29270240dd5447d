// Memory that two processes of this machine share. It has a fixed size and cannot be truncated, so no access fails because the
// other process does something: it can only change the bytes, at any time. Linux only; elsewhere Errc::unsupported.
#pragma once

#include <cstdint>
#include <string>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "platform/process_control.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

// Zeroed, with all of its pages. `size`: a multiple of page_size().
Result<UniqueFd> make_shared_memory(uint64_t size);
// Opens the memory that process `owner` has made and open as `descriptor`. Requires the permission to inspect that process: the
// same user, and the same or an inner process namespace. Opens nothing but such memory.
Result<UniqueFd> open_shared_memory(ProcessId owner, Descriptor descriptor, uint64_t size);
// Whether `memory` is what make_shared_memory() returned, in whatever process.
Result<> check_shared_memory(Descriptor memory, uint64_t size);

// Memory mapped into this process, for the object's lifetime. The descriptor may be closed meanwhile.
class SharedMapping {
public:
    // `memory` must have passed check_shared_memory() with this size.
    static Result<SharedMapping> map(Descriptor memory, uint64_t size);
    SharedMapping(SharedMapping && other) noexcept : bytes_(std::exchange(other.bytes_, {})) {}
    SharedMapping & operator=(SharedMapping &&) = delete;
    ~SharedMapping();

    MutableBytes bytes() const { return bytes_; }

private:
    explicit SharedMapping(MutableBytes bytes) : bytes_(bytes) {}

    MutableBytes bytes_;  // empty: moved from
};

// A random text of the running kernel, the same for all of its processes until the machine restarts; "" if it is unknown. The
// first call reads it, so call this before the process is confined. Threads: any.
const std::string & boot_id();

}  // namespace caravan::platform
