#include "cache/model_index.h"

#include <chrono>
#include <string>
#include <system_error>
#include <utility>

#include "base/log.h"
#include "platform/file.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

// A directory may change again within the granularity of its modification time.
constexpr std::chrono::seconds mtime_granularity{2};

std::optional<Reader> open_tensor(const ModelFile & model, const FileStamp & stamp, const TensorDigest & tensor,
                                  std::optional<uint64_t> fnv) {
    auto fd = platform::open_to_read(model.target, platform::Links::refuse_any);
    if (!fd || FileStamp::of(fd->get()) != stamp) {
        log_debug("model-dir: {} was removed or changed", model.path.string());
        return std::nullopt;
    }
    return Reader({.fd = std::move(*fd),
                   .path = model.path,
                   .rows = Rows::contiguous(tensor.extent.offset, tensor.extent.size),
                   .digest = tensor.digest,
                   .fnv = fnv},
                  [path = model.path, at = tensor.extent.offset](Damage, std::string_view reason) {
                      log_warning("model-dir: ignoring the tensor at byte {} of {}: {}", at, path.string(), reason);
                  });
}

}  // namespace

ModelIndex::ModelIndex(const fs::path & directory, const std::vector<fs::path> & model_dirs)
    : layout_(layout_in(directory)) {
    // The indexer logs the files that are skipped.
    for (ModelFile & model : find_models(model_dirs, layout_.root, [](const fs::path &, std::string_view) {})) {
        files_.push_back({std::move(model), std::nullopt});
    }
}

void ModelIndex::refresh() {
    std::error_code error;
    const fs::file_time_type changed = fs::last_write_time(layout_.digests(), error);
    if (error || changed == read_at_) {
        return;
    }
    for (Known & file : files_) {
        file.digests = load_digests(digest_file(layout_, file.model.path));
        if (file.digests && file.digests->path != file.model.path) {
            file.digests.reset();
        }
    }
    read_at_.reset();
    if (fs::file_time_type::clock::now() - changed > mtime_granularity) {
        read_at_ = changed;
    }
}

template <class Wanted>
std::optional<Reader> ModelIndex::find_tensor(Wanted wanted, std::optional<uint64_t> fnv) {
    refresh();
    for (const Known & file : files_) {
        if (!file.digests) {
            continue;
        }
        for (const TensorDigest & tensor : file.digests->tensors) {
            if (!wanted(tensor)) {
                continue;
            }
            if (auto reader = open_tensor(file.model, file.digests->stamp, tensor, fnv)) {
                return reader;
            }
            break;  // this file has changed; another one may contain the same tensor
        }
    }
    return std::nullopt;
}

std::vector<fs::path> ModelIndex::targets() const {
    std::vector<fs::path> targets;
    for (const Known & file : files_) {
        targets.push_back(file.model.target);
    }
    return targets;
}

std::optional<Reader> ModelIndex::find(uint64_t fnv, uint64_t size) {
    return find_tensor([&](const TensorDigest & tensor) { return tensor.fnv == fnv && tensor.extent.size == size; }, fnv);
}

std::optional<Reader> ModelIndex::find_digest(std::string_view hex, uint64_t size) {
    return find_tensor([&](const TensorDigest & tensor) { return tensor.digest == hex && tensor.extent.size == size; },
                       std::nullopt);
}

}  // namespace caravan::cache
