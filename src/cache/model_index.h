// The tensors in the model files of this machine (`rpc-server --model-dir`): what a client's model and one of ours have
// in common is read from here, and never crosses the network. Knows what the indexer (indexer.h), another process, has
// written down so far. Which files there are is found by walking the folders, once: digests of anything else count for
// nothing, whatever path they name.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "cache/digest_file.h"
#include "cache/layout.h"
#include "cache/model_files.h"
#include "cache/reader.h"

namespace caravan::cache {

// One thread at a time.
class ModelIndex {
public:
    // What is known is kept in `directory`/caravan, as with Store; without that folder nothing is found. Only the files
    // that find_models() finds below `model_dirs` now are served.
    ModelIndex(const std::filesystem::path & directory, const std::vector<std::filesystem::path> & model_dirs);

    // A tensor with this hash and size, in a file that has not changed since it was looked through. As the file may
    // change at any time, what is read counts only once Reader::verify() says so.
    std::optional<Reader> find(uint64_t fnv, uint64_t size);
    std::optional<Reader> find_digest(std::string_view hex, uint64_t size);

    // What may be served from here: files without symbolic links in their paths.
    std::vector<std::filesystem::path> targets() const;

private:
    struct Known {
        ModelFile model;
        std::optional<FileDigests> digests;
    };

    void refresh();
    template <class Wanted>
    std::optional<Reader> find_tensor(Wanted wanted, std::optional<uint64_t> fnv);

    Layout layout_;
    std::vector<Known> files_;
    std::optional<std::filesystem::file_time_type> read_at_;  // of the digests' folder, when they were read
};

}  // namespace caravan::cache
