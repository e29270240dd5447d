// Finds the model files below the directories of `rpc-server --model-dir` by walking them. A path in a digest file is never
// opened: the process that writes digest files parses untrusted models.
#pragma once

#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

namespace caravan::cache {

struct ModelFile {
    std::filesystem::path path;    // as found by the walk; names its digest file
    std::filesystem::path target;  // the regular file: absolute, without symbolic links
};

// Called with each file or directory that is skipped, and the reason.
using OnSkipped = std::function<void(const std::filesystem::path & path, std::string_view reason)>;

// Returns all *.gguf files below `model_dirs` (absolute and canonical), sorted by path, each file once. Does not follow
// symbolic links to directories. Follows a symbolic link to a file if the file is below `model_dirs`, or if root or the user
// of this process owns each link on the path to it. Skips `store`, where workers can write.
std::vector<ModelFile> find_models(const std::vector<std::filesystem::path> & model_dirs,
                                   const std::filesystem::path & store, const OnSkipped & on_skipped);

}  // namespace caravan::cache
