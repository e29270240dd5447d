#pragma once

#include <cstdint>

namespace caravan::server {

// Readable bytes after each CPU buffer. Some of ggml's kernels read past the end of a tensor and discard the values.
inline constexpr uint64_t overread_bytes = 4096;

}  // namespace caravan::server
