// Looks through model files and writes down what ModelIndex finds: the FNV-1a 64 and the BLAKE3 of every tensor that
// clients ask for by hash. Reads each file once; the next time only what is new or has changed.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <vector>

#include "base/error.h"
#include "cache/model_files.h"

namespace caravan::cache {

struct IndexReport {
    size_t tensors = 0;  // can be loaded from here
    size_t files = 0;    // that have them
    uint64_t bytes = 0;  // of these tensors
    size_t hashed = 0;   // of these tensors, those that were not known before
};

// find_models(), with a warning for what is left out. `directory`: the same as ModelIndex's.
std::vector<ModelFile> models_to_index(const std::filesystem::path & directory,
                                       const std::vector<std::filesystem::path> & model_dirs);

// `models`: from models_to_index(). A file that cannot be read or is no good is left out with a warning. What is known of
// files below `model_dirs` that have gone is forgotten. `stop` is asked often, and what was done until then stays.
// Errc::io if `directory` cannot be written.
Result<IndexReport> index_models(const std::filesystem::path & directory,
                                 const std::vector<std::filesystem::path> & model_dirs,
                                 const std::vector<ModelFile> & models, const std::function<bool()> & stop);

}  // namespace caravan::cache
