// Digests of weights that lie in a file mapped into this process, remembered across runs: a model that is loaded again
// is not hashed again.
//
// A digest is remembered for a file's path, inode, size and time of modification, and a place in it. Weights that do
// not come straight from a file (a program may read them into memory of its own) are hashed every time.
//
// Threads: any.
#pragma once

#include <array>
#include <filesystem>
#include <mutex>
#include <optional>
#include <unordered_map>

#include "base/bytes.h"
#include "cache/digest.h"
#include "cache/digest_file.h"
#include "client/weight_source.h"

namespace caravan::client {

class KnownDigests {
public:
    // In llama.cpp's cache folder. Where there is none, or it cannot be written, nothing is remembered.
    static KnownDigests & instance();
    explicit KnownDigests(const std::filesystem::path & directory);

    using Digest = std::array<std::byte, cache::digest_size>;
    struct Known {
        Digest digest;
        std::optional<WeightSource> source;  // if they come from a file
    };
    // Computed, if it is not known.
    Known digest_of(ConstBytes data);

    // Writes down what is new.
    void save();

private:
    struct File {
        cache::FileDigests digests;
        bool is_changed = false;
    };
    struct Place {
        File * file;
        cache::Extent extent;
    };
    std::optional<Place> place_of(ConstBytes data);

    std::mutex mutex_;
    std::optional<cache::Layout> layout_;
    std::unordered_map<std::string, File> files_;  // by path
};

}  // namespace caravan::client
