// The location of weights in a file, to read them again after the program has released them.
#pragma once

#include <filesystem>

#include "base/bytes.h"
#include "base/error.h"
#include "cache/digest_file.h"

namespace caravan::client {

struct WeightSource {
    std::filesystem::path path;
    cache::FileStamp stamp;  // of the file when its weights were hashed
    cache::Extent extent;
};

// Maps these bytes during its lifetime.
class MappedWeights {
public:
    // Fails with Errc::io if the file cannot be read, Errc::not_found if it has changed since.
    static Result<MappedWeights> map(const WeightSource & source);
    MappedWeights(MappedWeights && other) noexcept : mapped_(std::exchange(other.mapped_, {})), bytes_(other.bytes_) {}
    MappedWeights & operator=(MappedWeights &&) = delete;
    ~MappedWeights();

    ConstBytes bytes() const { return bytes_; }

private:
    MappedWeights(MutableBytes mapped, ConstBytes bytes) : mapped_(mapped), bytes_(bytes) {}

    MutableBytes mapped_;  // whole pages
    ConstBytes bytes_;
};

}  // namespace caravan::client
