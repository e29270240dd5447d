// Hashes model files for ModelIndex: writes the FNV-1a 64 and the BLAKE3 of each tensor that clients look up by hash to
// digest files. Files that have not changed since the last run are not hashed again.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/error.h"
#include "cache/model_files.h"

namespace caravan::cache {

struct IndexReport {
    size_t tensors = 0;  // that the server can load from model files
    size_t files = 0;    // that contain these tensors
    uint64_t bytes = 0;  // of these tensors
    size_t hashed = 0;   // of these tensors, the number hashed in this run
};

// As find_models(), and logs a warning for each file that it skips. `directory` is the one passed to ModelIndex.
std::vector<ModelFile> models_to_index(const std::filesystem::path & directory,
                                       const std::vector<std::filesystem::path> & model_dirs);

// Hashes `models`, from models_to_index(). Logs a warning for each file that it cannot read or parse, and skips it. Removes
// the digests of files below `model_dirs` that no longer exist. Calls `stop` for each chunk, and returns early if it is
// true; digests computed by then are kept. Errc::io if `directory` is not writable.
Result<IndexReport> index_models(const std::filesystem::path & directory,
                                 const std::vector<std::filesystem::path> & model_dirs,
                                 const std::vector<ModelFile> & models, const std::function<bool()> & stop);

}  // namespace caravan::cache
