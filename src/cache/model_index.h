// Looks up tensors in the model files of this machine (`rpc-server --model-dir`), so that weights which a client has in
// common with them need not cross the network. Uses the digests that the indexer, another process, has written so far
// (indexer.h). The model files are found once, by walking the directories; digests of any other file are ignored.
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

// Only one thread at a time may use an object.
class ModelIndex {
public:
    // Serves the files that find_models() finds below `model_dirs` now. Reads digests from `directory`/caravan, which Store
    // uses, too; finds nothing without that directory.
    ModelIndex(const std::filesystem::path & directory, const std::vector<std::filesystem::path> & model_dirs);

    // Finds a tensor with this hash (FNV-1a 64, or BLAKE3 in lower-case hex) and size, in a file that has not changed since
    // it was hashed. The file can change at any time, so the bytes are valid only after Reader::verify() returns true.
    std::optional<Reader> find(uint64_t fnv, uint64_t size);
    std::optional<Reader> find_digest(std::string_view hex, uint64_t size);

    // The model files that it may read: absolute paths without symbolic links.
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
    std::optional<std::filesystem::file_time_type> read_at_;  // modification time of digests/ when it was read
};

}  // namespace caravan::cache
