// The tensors in the model files of this machine (`rpc-server --model-dir`): what a client's model and one of ours have
// in common is read from here, and never crosses the network. Knows what the indexer (indexer.h), another process, has
// written down so far.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "cache/digest_file.h"
#include "cache/layout.h"
#include "cache/reader.h"

namespace caravan::cache {

// One thread at a time.
class ModelIndex {
public:
    // What is known is kept in `directory`/caravan, as with Store. Only files below `model_dirs`, which are absolute,
    // are served, whatever else is known. Errc::io if the directories cannot be made or written.
    static Result<ModelIndex> open(const std::filesystem::path & directory,
                                   std::vector<std::filesystem::path> model_dirs);

    // A tensor with this hash and size, in a file that has not changed since it was looked through. As the file may
    // change at any time, what is read counts only once Reader::verify() says so.
    std::optional<Reader> find(uint64_t fnv, uint64_t size);
    std::optional<Reader> find_digest(std::string_view hex, uint64_t size);

    // The files that are known now.
    std::vector<std::filesystem::path> files();

private:
    ModelIndex(Layout layout, std::vector<std::filesystem::path> model_dirs)
        : layout_(std::move(layout)), model_dirs_(std::move(model_dirs)) {}

    void refresh();
    template <class Wanted>
    std::optional<Reader> find_tensor(Wanted wanted);

    Layout layout_;
    std::vector<std::filesystem::path> model_dirs_;
    std::vector<FileDigests> files_;
    std::optional<std::filesystem::file_time_type> read_at_;  // of the digests' folder, when files_ was read
};

}  // namespace caravan::cache
