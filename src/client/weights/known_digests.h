// Digests of weights in files that are mapped into this process. They are saved across runs, so a model that is loaded again
// is not hashed again.
//
// A digest is stored by the file's path, inode, size and modification time, and the rows in the file. Weights outside a
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
#include "client/weights/weight_rows.h"
#include "client/weights/weight_source.h"

namespace caravan::client {

class KnownDigests {
public:
    // Uses llama.cpp's cache folder. Saves nothing if there is none or it is not writable.
    static KnownDigests & instance();
    explicit KnownDigests(const std::filesystem::path & directory);

    using Digest = std::array<std::byte, cache::digest_size>;
    // A tensor of a model file, and the place of a part in it.
    struct Whole {
        uint64_t size;
        Digest digest;
        cache::Rows part;
    };
    struct Known {
        Digest digest;
        std::optional<WeightSource> source;  // if the data lies in a mapped file
        std::optional<Whole> whole;          // if the data is a part of a tensor there, and that was asked for
    };
    enum class Scope { data, and_whole };
    // Hashes the data unless its digest is stored; and_whole: also the tensor that it is a part of.
    Known digest_of(const WeightRows & data, Scope scope = Scope::data);

    // Writes new digests to disk. Failures are logged at debug level.
    void save();

private:
    struct File {
        cache::FileDigests digests;
        std::optional<std::vector<cache::Extent>> tensors;  // large ones, once they were looked for
        bool is_changed = false;
    };
    struct Place {
        File * file;
        cache::Rows rows;
    };
    std::optional<Place> place_of(const WeightRows & data);
    Digest digest_at(const Place & place, const WeightRows & data);
    std::optional<Whole> whole_of(const Place & place, const std::byte * memory);

    std::mutex mutex_;
    std::optional<cache::Layout> layout_;
    std::unordered_map<std::string, File> files_;  // by path
};

}  // namespace caravan::client
