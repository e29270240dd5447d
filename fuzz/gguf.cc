// Headers of GGUF files.
#include "indexer/gguf.h"

#include <sys/mman.h>
#include <unistd.h>

#include "kit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    static const int file = ::memfd_create("model", MFD_CLOEXEC);
    fuzz::require(::ftruncate(file, 0) == 0 && ::pwrite(file, data, size, 0) == static_cast<ssize_t>(size),
                  "the file can be written");
    if (const auto tensors = cache::find_tensors(file, size, 0)) {
        uint64_t end = 0;
        for (const cache::Extent & tensor : *tensors) {
            fuzz::require(tensor.offset >= end && tensor.offset <= size && tensor.size <= size - tensor.offset,
                          "tensors lie within the file and do not overlap");
            end = tensor.offset + tensor.size;
        }
    }
    return 0;
}
