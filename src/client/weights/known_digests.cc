#include "client/weights/known_digests.h"

#include <algorithm>
#include <cstdio>
#include <memory>

#include "base/log.h"
#include "cache/store.h"
#include "indexer/gguf.h"
#include "platform/file.h"
#include "wire/native.h"

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

KnownDigests::Digest compute_digest(const WeightRows & data) {
    cache::Blake3 hasher;
    data.for_each_piece([&](ConstBytes piece) { hasher.update(piece); });
    return hasher.bytes();
}

std::optional<std::string> find_digest(const cache::FileDigests & digests, const cache::Rows & rows) {
    if (rows.is_contiguous()) {
        const cache::Extent extent{rows.offset, rows.size};
        const auto known = std::ranges::find(digests.tensors, extent, &cache::TensorDigest::extent);
        return known == digests.tensors.end() ? std::nullopt : std::optional(known->digest);
    }
    const auto known = std::ranges::find(digests.parts, rows, &cache::PartDigest::rows);
    return known == digests.parts.end() ? std::nullopt : std::optional(known->digest);
}

void add_digest(cache::FileDigests & digests, const cache::Rows & rows, const KnownDigests::Digest & digest) {
    if (rows.is_contiguous()) {
        digests.tensors.push_back({{rows.offset, rows.size}, 0, cache::hex_of(digest)});
    } else {
        digests.parts.push_back({rows, cache::hex_of(digest)});
    }
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

std::optional<KnownDigests::Place> KnownDigests::place_of(const WeightRows & data) {
    const auto mapping = layout_ ? find_mapping(data.with_gaps()) : std::nullopt;
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
        file.digests = {mapping->path, *stamp, {}, {}};
        file.tensors.reset();
    }
    if (!file.tensors) {
        file.tensors = cache::find_tensors(fd->get(), stamp->size, wire::find_threshold).value_or(std::vector<cache::Extent>());
    }
    cache::Rows rows = data.rows;
    rows.offset = mapping->offset + static_cast<uint64_t>(data.first - mapping->begin);
    return Place{&file, rows};
}

KnownDigests::Known KnownDigests::digest_of(const WeightRows & data, Scope scope) {
    std::lock_guard lock(mutex_);
    const auto place = place_of(data);
    if (!place) {
        return {compute_digest(data), std::nullopt, std::nullopt};
    }
    return {digest_at(*place, data), WeightSource{place->file->digests.path, place->file->digests.stamp, place->rows},
            scope == Scope::and_whole ? whole_of(*place, data.first) : std::nullopt};
}

KnownDigests::Digest KnownDigests::digest_at(const Place & place, const WeightRows & data) {
    if (const auto known = find_digest(place.file->digests, place.rows)) {
        return cache::bytes_of_hex(*known);
    }
    const Digest digest = compute_digest(data);
    add_digest(place.file->digests, place.rows, digest);
    place.file->is_changed = true;
    return digest;
}

// `memory` has the first byte of the part. The program may have mapped only a part of the tensor.
std::optional<KnownDigests::Whole> KnownDigests::whole_of(const Place & place, const std::byte * memory) {
    const uint64_t begin = place.rows.offset;
    const auto found = std::ranges::find_if(*place.file->tensors, [&](const cache::Extent & extent) {
        return extent.offset <= begin && begin < extent.offset + extent.size;
    });
    if (found == place.file->tensors->end()) {
        return std::nullopt;
    }
    const cache::Extent tensor = *found;
    cache::Rows part = place.rows;
    part.offset -= tensor.offset;
    if (part.bytes() == tensor.size || !part.are_within(tensor.size)) {
        return std::nullopt;
    }
    const WeightRows whole(ConstBytes(memory - part.offset, tensor.size));
    const auto at = place_of(whole);
    if (!at || at->file != place.file || at->rows.offset != tensor.offset) {
        return std::nullopt;
    }
    return Whole{tensor.size, digest_at(*at, whole), part};
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
