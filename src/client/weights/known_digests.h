// Digests of weights in files that are mapped into this process. They are saved across runs, so a model that is loaded again
// is not hashed again.
//
// A digest is stored by the file's path, inode, size and modification time, and the extent in the file. Weights outside a
// mapped file (a program may read them into its own memory) are hashed every time.
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
#include "client/weights/weight_source.h"

namespace caravan::client {

class KnownDigests {
public:
    // Uses llama.cpp's cache folder. Saves nothing if there is none or it is not writable.
    static KnownDigests & instance();
    explicit KnownDigests(const std::filesystem::path & directory);

    using Digest = std::array<std::byte, cache::digest_size>;
    struct Known {
        Digest digest;
        std::optional<WeightSource> source;  // if the data lies in a mapped file
    };
    // Hashes the data unless its digest is stored.
    Known digest_of(ConstBytes data);

    // Writes new digests to disk. Failures are logged at debug level.
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
