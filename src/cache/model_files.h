// The model files below the folders of `rpc-server --model-dir`, found by walking these folders. What a file of digests
// names is never a reason to open a file: the process that writes such files reads hostile models.
#pragma once

#include <filesystem>
#include <functional>
#include <string_view>
#include <vector>

#include "base/unique_fd.h"

namespace caravan::cache {

struct ModelFile {
    std::filesystem::path path;    // as found below a folder; its digests are kept under this name
    std::filesystem::path target;  // the regular file: absolute, no symbolic link in it
};

// Called with each file or folder that is left out, and the reason.
using LeftOut = std::function<void(const std::filesystem::path & path, std::string_view reason)>;

// All *.gguf files below `model_dirs` (absolute and canonical), each file once, sorted by path. Symbolic links to folders
// are not followed. One to a file is followed to a file below `model_dirs`; elsewhere only if root or this process's user
// owns each link on the path to it. `store` is not searched: workers write there.
std::vector<ModelFile> find_models(const std::vector<std::filesystem::path> & model_dirs,
                                   const std::filesystem::path & store, const LeftOut & left_out);

// open(2), which fails if any component of `path` is a symbolic link. (Kernels before Linux 5.6 look at the last only.)
UniqueFd open_without_links(const std::filesystem::path & path, int flags);

}  // namespace caravan::cache
