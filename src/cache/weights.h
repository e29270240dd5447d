// All weights that this machine can load without the network: the store's and those of its model files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/model_index.h"
#include "cache/store.h"

namespace caravan::cache {

struct WeightOptions {
    std::filesystem::path directory;               // where both keep what they know
    bool keep = false;                             // what is uploaded, in the store
    uint64_t max_bytes = 0;                        // of the store; 0: no limit
    std::vector<std::filesystem::path> model_dirs;  // absolute
};

// One thread at a time.
class Weights {
public:
    // Opens nothing that the options do not ask for. What cannot be used is left out, and problem() says why.
    explicit Weights(const WeightOptions & options);

    // Why what is uploaded cannot be kept, or nothing be found; empty if all is well.
    const std::string & problem() const { return problem_; }

    // Model files first: what is read from there does not push anything out of the store.
    std::optional<Reader> find(uint64_t fnv, uint64_t size);
    std::optional<Reader> find_digest(std::string_view hex, uint64_t size);

    // From now on no process that serves a peer can open a blob to write: blobs may be mapped.
    void seal();

    // The model files that may be served: regular files, without symbolic links in their paths.
    std::vector<std::filesystem::path> model_files() const;

    // Is there a store, if only to read?
    bool has_store() const { return store_.has_value(); }
    // Is there anything that could be found?
    bool may_find() const { return store_ || models_; }

    // As Store::begin; none without a store.
    std::optional<Writer> begin(uint64_t size, Keys keys) const;

private:
    std::string problem_;
    std::optional<Store> store_;
    std::optional<ModelIndex> models_;
};

}  // namespace caravan::cache
