// Where the tensors of a GGUF file lie, versions 2 and 3. A file may be truncated, damaged or hostile: the answer is then
// an error, in bounded memory and time. (ggml's own reader, without loading data, accepts a file whose data are cut off,
// and takes the whole vocabulary into memory.)
//
// Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md
#pragma once

#include <cstdint>
#include <vector>

#include "base/error.h"

namespace caravan::cache {

struct Extent {
    uint64_t offset = 0;  // bytes from the start of the file
    uint64_t size = 0;    // bytes

    bool operator==(const Extent &) const = default;
};

// The tensors that are larger than `threshold` bytes, in the order of the file: within `file_size`, none overlapping
// another. Moves no file position. Errc::io if the file cannot be read, else Errc::invalid_argument with what is wrong.
Result<std::vector<Extent>> find_tensors(int fd, uint64_t file_size, uint64_t threshold);

}  // namespace caravan::cache
