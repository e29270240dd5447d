// All weights that this machine can load from its disk: those in the store and those in its model files.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "cache/model_index.h"
#include "cache/store.h"
#include "cache/weight_options.h"

namespace caravan::cache {

// Only one thread at a time may use an object.
class Weights {
public:
    // Opens the store and the model index as far as the options enable them. If the store cannot be opened or written,
    // problem() returns the reason.
    explicit Weights(const WeightOptions & options);

    // Why the store is read-only or unusable; empty if it is usable or not enabled.
    const std::string & problem() const { return problem_; }

    // Searches model files before the store, since reading from them does not affect eviction. As ModelIndex and Store.
    std::optional<Reader> find(uint64_t fnv, uint64_t size);
    std::optional<Reader> find_digest(std::string_view hex, uint64_t size);

    // Finds a part of a tensor, by its own digest or by the tensor's. `part` must lie within the tensor.
    std::optional<Reader> find_part(std::string_view hex, const Rows & part, std::string_view tensor_hex,
                                    uint64_t tensor_size);

    // Declares that from now on no process that serves a peer can open a blob for writing, so blobs may be mapped.
    void seal();

    // The model files that may be read: absolute paths of regular files, without symbolic links.
    std::vector<std::filesystem::path> model_files() const;

    // True if the store is open, perhaps only for reading.
    bool has_store() const { return store_.has_value(); }
    // False if find() never finds anything.
    bool may_find() const { return store_ || models_; }

    // As Store::begin(); std::nullopt without a store.
    std::optional<Writer> begin(uint64_t size, Keys keys) const;

private:
    std::string problem_;
    std::optional<Store> store_;
    std::optional<ModelIndex> models_;
};

}  // namespace caravan::cache
