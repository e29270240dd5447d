#include "indexer/indexer.h"

#include <algorithm>
#include <optional>
#include <system_error>
#include <utility>

#include "base/clock.h"
#include "base/log.h"
#include "cache/digest.h"
#include "cache/digest_file.h"
#include "indexer/gguf.h"
#include "cache/layout.h"
#include "platform/file.h"
#include "tunables/cache.h"
#include "wire/native.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

void warn_skipped(const fs::path & path, std::string_view reason) {
    log_warning("model-dir: skipping {}: {}", path.string(), reason);
}

class Indexer {
public:
    Indexer(Layout layout, const std::function<bool()> & stop) : layout_(std::move(layout)), stop_(stop) {}

    void add(const ModelFile & model);
    void remove_stale_digests(const std::vector<fs::path> & model_dirs) const;
    const IndexReport & report() const { return report_; }

private:
    std::optional<TensorDigest> hash(Descriptor file, Extent extent);
    Layout layout_;
    const std::function<bool()> & stop_;
    std::vector<std::byte> chunk_ = std::vector<std::byte>(chunk_size);
    IndexReport report_;
};

// std::nullopt if the file has become shorter, cannot be read, or stop() is true.
std::optional<TensorDigest> Indexer::hash(Descriptor file, Extent extent) {
    uint64_t fnv = wire::fnv1a_start;
    Blake3 digest;
    for (uint64_t done = 0; done < extent.size;) {
        if (stop_()) {
            return std::nullopt;
        }
        const auto wanted = static_cast<size_t>(std::min<uint64_t>(chunk_.size(), extent.size - done));
        const auto n = platform::read_at(file, MutableBytes(chunk_).first(wanted), extent.offset + done);
        if (!n || *n == 0) {
            return std::nullopt;
        }
        const ConstBytes got = ConstBytes(chunk_).first(*n);
        fnv = wire::fnv1a(got, fnv);
        digest.update(got);
        done += got.size();
    }
    return TensorDigest{extent, fnv, digest.hex()};
}

void Indexer::add(const ModelFile & model) {
    const fs::path & path = model.path;
    const auto fd = platform::open_to_read(model.target, platform::Links::refuse_any);
    if (!fd) {
        return warn_skipped(path, fd.error().text);
    }
    const auto stamp = FileStamp::of(fd->get());
    if (!stamp) {
        return warn_skipped(path, "it is not a regular file");
    }
    const auto extents = find_tensors(fd->get(), stamp->size, wire::find_threshold);
    if (!extents) {
        return warn_skipped(path, extents.error().text);
    }
    auto known = load_digests(digest_file(layout_, path));
    if (known && (known->path != path || known->stamp != *stamp)) {
        known.reset();
    }
    FileDigests digests{path, *stamp, {}};
    size_t hashed = 0;
    TimePoint saved_at = Clock::now();
    const auto save = [&] {
        if (const auto saved = save_digests(layout_, digests); !saved) {
            warn_skipped(path, saved.error().text);
            return false;
        }
        saved_at = Clock::now();
        return true;
    };
    for (const Extent extent : *extents) {
        const auto same = [&](const TensorDigest & tensor) { return tensor.extent == extent; };
        if (known) {
            if (const auto found = std::ranges::find_if(known->tensors, same); found != known->tensors.end()) {
                digests.tensors.push_back(*found);
                continue;
            }
        }
        auto digest = hash(fd->get(), extent);
        if (!digest) {
            break;
        }
        digests.tensors.push_back(std::move(*digest));
        ++hashed;
        if (Clock::now() - saved_at > tunable::digest_save_interval && !save()) {
            return;
        }
    }
    if (FileStamp::of(fd->get()) != stamp) {
        return warn_skipped(path, "it changed while it was being read");
    }
    if (hashed > 0 && !save()) {
        return;
    }
    if (digests.tensors.size() < extents->size() && !stop_()) {
        log_warning("model-dir: cannot read all of {}: only {} of {} tensors can be used", path.string(),
                    digests.tensors.size(), extents->size());
    }
    report_.files += digests.tensors.empty() ? 0 : 1;
    report_.tensors += digests.tensors.size();
    report_.hashed += hashed;
    for (const TensorDigest & tensor : digests.tensors) {
        report_.bytes += tensor.extent.size;
    }
}

void Indexer::remove_stale_digests(const std::vector<fs::path> & model_dirs) const {
    std::error_code error;
    for (fs::directory_iterator at(layout_.digests(), error), end; !error && at != end; at.increment(error)) {
        std::error_code unknown;
        if (!is_digest_file_name(at->path().filename().native())) {
            const auto modified = at->last_write_time(unknown);
            if (!unknown && fs::file_time_type::clock::now() - modified > tunable::foreign_digest_age) {
                fs::remove(at->path(), unknown);
            }
            continue;
        }
        const auto known = load_digests(at->path());
        if (!known || (lies_below(known->path, model_dirs) && !fs::exists(known->path, unknown) && !unknown)) {
            fs::remove(at->path(), unknown);
        }
    }
}

}  // namespace

std::vector<ModelFile> models_to_index(const fs::path & directory, const std::vector<fs::path> & model_dirs) {
    return find_models(model_dirs, layout_in(directory).root, warn_skipped);
}

Result<IndexReport> index_models(const fs::path & directory, const std::vector<fs::path> & model_dirs,
                                 const std::vector<ModelFile> & models, const std::function<bool()> & stop) {
    auto layout = open_digests(directory);
    if (!layout) {
        return std::unexpected(layout.error());
    }
    Indexer indexer(std::move(*layout), stop);
    for (const ModelFile & model : models) {
        if (stop()) {
            break;
        }
        indexer.add(model);
    }
    indexer.remove_stale_digests(model_dirs);
    return indexer.report();
}

}  // namespace caravan::cache
