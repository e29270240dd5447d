// Where a server looks for weights that need not be sent.
#pragma once

#include <cstdint>
#include <filesystem>
#include <vector>

namespace caravan::cache {

struct WeightOptions {
    std::filesystem::path directory;                // holds the store and the digests of model files
    bool keep = false;                              // keep uploaded weights in the store
    uint64_t max_bytes = 0;                         // size limit of the store; 0: no limit
    std::vector<std::filesystem::path> model_dirs;  // absolute and canonical
};

}  // namespace caravan::cache
