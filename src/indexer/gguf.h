// Locates the tensors in a GGUF file, versions 2 and 3. A truncated, damaged or malicious file yields an error in bounded
// memory and time. (ggml's own reader, used without loading data, accepts files with truncated data and loads the whole
// vocabulary.)
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"
#include "cache/extent.h"
#include "platform/unique_fd.h"

namespace caravan::cache {

// Returns the tensors larger than `threshold` bytes, in file order. They lie within `file_size` and do not overlap. Does
// not move the file position. Errc::io if the file cannot be read, Errc::invalid_argument if it is malformed.
Result<std::vector<Extent>> find_tensors(Descriptor file, uint64_t file_size, uint64_t threshold);

}  // namespace caravan::cache
