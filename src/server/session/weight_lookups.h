// Loads weights that a client queries by hash, from the cache or from model files. Used by the session's thread only.
#pragma once

#include <optional>
#include <vector>

#include "cache/weights.h"
#include "server/graph/tensor_check.h"

namespace caravan::server {

struct SessionContext;

class WeightLookups {
public:
    // `weights` may be null; then every lookup misses. `context` must outlive this.
    WeightLookups(SessionContext & context, cache::Weights * weights) : context_(context), weights_(weights) {}

    bool has_cache() const { return weights_ != nullptr && weights_->may_find(); }

    // Loads `size` bytes into the region. False if they are not there.
    Result<bool> find_fnv(CheckedRegion & region, uint64_t size, uint64_t fnv);
    // Starts the same by digest. reply_to_finds() sends the reply, so that several finds are verified concurrently.
    Result<> find_digest(CheckedRegion & region, uint64_t size, ConstBytes digest);
    Result<> find_part(CheckedRegion & region, const cache::Rows & part, ConstBytes digest, ConstBytes tensor_digest,
                       uint64_t tensor_size);
    // Replies to all open finds, u8 each. Call it before any other reply, any access to a buffer, and before the session waits.
    Result<> reply_to_finds();

    // Bytes that were found, by origin.
    uint64_t bytes_from_cache() const { return from_cache_; }
    uint64_t bytes_from_models() const { return from_models_; }

private:
    struct OpenFind {
        std::optional<cache::Reader> entry;  // none: not found
        CheckedRegion region;
        uint64_t size = 0;
        MutableBytes place;  // memory that is being hashed
    };

    template <class Search>
    Result<> open(CheckedRegion & region, uint64_t size, Search search);
    Result<> load(CheckedRegion & region, uint64_t size, cache::Reader & entry);
    // Verifies the bytes that load() read. On failure overwrites them with zeros and returns false.
    bool verify(CheckedRegion & region, uint64_t size, cache::Reader & entry);

    SessionContext & context_;
    cache::Weights * const weights_;
    std::vector<OpenFind> open_finds_;
    uint64_t from_cache_ = 0, from_models_ = 0;
};

}  // namespace caravan::server
