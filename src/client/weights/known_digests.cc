#include "client/weights/known_digests.h"

#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/log.h"
#include "cache/store.h"
#include "platform/file.h"

namespace caravan::client {
namespace {

struct Mapping {
    std::string path;
    uint64_t offset = 0;  // in the file, of the mapping's first byte
    uint64_t inode = 0;
    const std::byte * begin = nullptr;
};

// The read-only file mapping that contains all of `data`. Linux only; elsewhere none is found.
std::optional<Mapping> find_mapping(ConstBytes data) {
    const std::unique_ptr<std::FILE, int (*)(std::FILE *)> maps(std::fopen("/proc/self/maps", "re"), std::fclose);
    const auto wanted = reinterpret_cast<uintptr_t>(data.data());
    char line[4096 + 128];
    while (maps != nullptr && std::fgets(line, sizeof line, maps.get()) != nullptr) {
        unsigned long begin = 0, end = 0, offset = 0, inode = 0;
        char access[5] = {};
        int path_at = 0;
        const int read = std::sscanf(line, "%lx-%lx %4s %lx %*s %lu %n", &begin, &end, access, &offset, &inode, &path_at);
        if (read != 5 || wanted < begin || wanted >= end) {
            continue;
        }
        std::string path(line + path_at);
        if (data.size() > end - wanted || access[1] == 'w' || inode == 0 || !path.starts_with('/') ||
            !path.ends_with('\n')) {
            return std::nullopt;
        }
        path.pop_back();
        return Mapping{path, offset, inode, reinterpret_cast<const std::byte *>(begin)};
    }
    return std::nullopt;
}

}  // namespace

KnownDigests & KnownDigests::instance() {
    // Never destroyed: connections may outlive static objects.
    static KnownDigests & only =
        *new KnownDigests(cache::default_directory().transform([](const auto & path) { return path / "client"; })
                              .value_or(std::filesystem::path()));
    return only;
}

KnownDigests::KnownDigests(const std::filesystem::path & directory) {
    if (directory.empty()) {
        return;
    }
    auto layout = cache::open_digests(directory);
    if (layout) {
        layout_ = std::move(*layout);
    } else {
        log_debug("digests of weights are not saved: {}", layout.error().text);
    }
}

std::optional<KnownDigests::Place> KnownDigests::place_of(ConstBytes data) {
    const auto mapping = layout_ ? find_mapping(data) : std::nullopt;
    if (!mapping) {
        return std::nullopt;
    }
    const auto fd = platform::open_to_read(mapping->path);
    const auto stamp = fd ? cache::FileStamp::of(fd->get()) : std::nullopt;
    if (!stamp || stamp->inode != mapping->inode) {
        return std::nullopt;  // the path names another file now
    }
    auto [entry, is_new] = files_.try_emplace(mapping->path);
    File & file = entry->second;
    if (is_new) {
        if (auto known = cache::load_digests(cache::digest_file(*layout_, mapping->path));
            known && known->path == mapping->path) {
            file.digests = std::move(*known);
        }
    }
    if (file.digests.stamp != *stamp) {
        file.digests = {mapping->path, *stamp, {}};
    }
    return Place{&file, {mapping->offset + static_cast<uint64_t>(data.data() - mapping->begin), data.size()}};
}

KnownDigests::Known KnownDigests::digest_of(ConstBytes data) {
    std::lock_guard lock(mutex_);
    const auto place = place_of(data);
    std::optional<WeightSource> source;
    if (place) {
        source = {place->file->digests.path, place->file->digests.stamp, place->extent};
        const auto known = std::ranges::find_if(place->file->digests.tensors, [&](const cache::TensorDigest & tensor) {
            return tensor.extent.offset == place->extent.offset && tensor.extent.size == place->extent.size;
        });
        if (known != place->file->digests.tensors.end()) {
            return {cache::bytes_of_hex(known->digest), std::move(source)};
        }
    }
    cache::Blake3 hasher;
    hasher.update(data);
    const Digest digest = hasher.bytes();
    if (place) {
        place->file->digests.tensors.push_back({place->extent, 0, cache::hex_of(digest)});
        place->file->is_changed = true;
    }
    return {digest, std::move(source)};
}

void KnownDigests::save() {
    std::lock_guard lock(mutex_);
    for (auto & [path, file] : files_) {
        if (file.is_changed && layout_) {
            file.is_changed = false;
            if (auto saved = cache::save_digests(*layout_, file.digests); !saved) {
                log_debug("digests of {} are not saved: {}", path, saved.error().text);
            }
        }
    }
}

}  // namespace caravan::client
