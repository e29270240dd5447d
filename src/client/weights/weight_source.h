// The location of weights in a file, to read them again after the program has released them.
#pragma once

#include <filesystem>

#include "base/error.h"
#include "cache/digest_file.h"
#include "platform/mapping.h"

namespace caravan::client {

struct WeightSource {
    std::filesystem::path path;
    cache::FileStamp stamp;  // of the file when its weights were hashed
    cache::Rows rows;  // in the file
};

// Maps these rows, with the gaps between them. Fails with Errc::io if the file cannot be read, Errc::not_found if it has
// changed since.
Result<platform::Mapping> map_weights(const WeightSource & source);

}  // namespace caravan::client
