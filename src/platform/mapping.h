// Files mapped into memory.
#pragma once

#include <cstdint>
#include <utility>

#include "base/bytes.h"
#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

// A read-only view of a part of a file, for its lifetime. The file may be closed meanwhile. A file that becomes shorter
// makes an access to the lost part fail with a signal.
class Mapping {
public:
    // `offset` need not be aligned; `size` is not 0. Errc::io; the error's text is the system's reason.
    static Result<Mapping> map(Descriptor file, uint64_t offset, uint64_t size);
    Mapping(Mapping && other) noexcept : pages_(std::exchange(other.pages_, {})), bytes_(other.bytes_) {}
    Mapping & operator=(Mapping &&) = delete;
    ~Mapping();

    ConstBytes bytes() const { return bytes_; }
    // The number of bytes that are in memory, counted in whole pages. Errc::io.
    Result<uint64_t> resident() const;

private:
    Mapping(MutableBytes pages, ConstBytes bytes) : pages_(pages), bytes_(bytes) {}

    MutableBytes pages_;  // whole pages; empty: moved from
    ConstBytes bytes_;
};

// Replaces private memory by a private, writable mapping of the file: writes do not reach the file. `pages`, their size and
// `offset` are multiples of page_size(). If it returns false, the memory is zeroed.
bool map_over(MutableBytes pages, Descriptor file, uint64_t offset);
// Replaces whole pages, mapped or not, by zeroed private memory.
void replace_by_zeros(MutableBytes pages);

}  // namespace caravan::platform
