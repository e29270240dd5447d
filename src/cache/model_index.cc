#include "cache/model_index.h"

#include <fcntl.h>

#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "base/unique_fd.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

// A folder that changed less than this ago may change again without another time of modification.
constexpr std::chrono::seconds settled{2};

std::optional<Reader> open_tensor(const FileDigests & file, const TensorDigest & tensor) {
    UniqueFd fd(::open(file.path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK));
    if (!fd || FileStamp::of(fd.get()) != file.stamp) {
        log_debug("model-dir: {} is gone or has changed", file.path.string());
        return std::nullopt;
    }
    return Reader({std::move(fd), file.path, tensor.extent.offset, tensor.extent.size, tensor.digest},
                  [path = file.path, at = tensor.extent.offset](std::string_view reason) {
                      log_warning("model-dir: the tensor at byte {} of {} is not used: {}", at, path.string(), reason);
                  });
}

}  // namespace

Result<ModelIndex> ModelIndex::open(const fs::path & directory, std::vector<fs::path> model_dirs) {
    auto layout = open_digests(directory);
    if (!layout) {
        return std::unexpected(layout.error());
    }
    return ModelIndex(std::move(*layout), std::move(model_dirs));
}

void ModelIndex::refresh() {
    std::error_code error;
    const fs::file_time_type changed = fs::last_write_time(layout_.digests(), error);
    if (error || changed == read_at_) {
        return;
    }
    files_.clear();
    for (fs::directory_iterator at(layout_.digests(), error), end; !error && at != end; at.increment(error)) {
        auto file = load_digests(at->path());
        if (file && lies_below(file->path, model_dirs_)) {
            files_.push_back(std::move(*file));
        }
    }
    read_at_.reset();
    if (fs::file_time_type::clock::now() - changed > settled) {
        read_at_ = changed;
    }
}

template <class Wanted>
std::optional<Reader> ModelIndex::find_tensor(Wanted wanted) {
    refresh();
    for (const FileDigests & file : files_) {
        for (const TensorDigest & tensor : file.tensors) {
            if (!wanted(tensor)) {
                continue;
            }
            if (auto reader = open_tensor(file, tensor)) {
                return reader;
            }
            break;  // nothing in this file can be had; another one may have the same tensor
        }
    }
    return std::nullopt;
}

std::vector<fs::path> ModelIndex::files() {
    refresh();
    std::vector<fs::path> paths;
    for (const FileDigests & file : files_) {
        paths.push_back(file.path);
    }
    return paths;
}

std::optional<Reader> ModelIndex::find(uint64_t fnv, uint64_t size) {
    return find_tensor([&](const TensorDigest & tensor) { return tensor.fnv == fnv && tensor.extent.size == size; });
}

std::optional<Reader> ModelIndex::find_digest(std::string_view hex, uint64_t size) {
    return find_tensor([&](const TensorDigest & tensor) { return tensor.digest == hex && tensor.extent.size == size; });
}

}  // namespace caravan::cache
