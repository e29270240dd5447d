#include "cache/fnv_index.h"

#include <system_error>
#include <unordered_set>
#include <vector>

#include "base/log.h"
#include "cache/digest.h"
#include "cache/reader.h"
#include "cache/temporary_file.h"
#include "platform/file.h"
#include "wire/stock.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

std::vector<std::string> names_in(const fs::path & directory) {
    std::vector<std::string> names;
    std::error_code error;
    for (fs::directory_iterator at(directory, error), end; !error && at != end; at.increment(error)) {
        names.push_back(at->path().filename().string());
    }
    return names;
}

// The FNV-1a 64 of the blob. Removes a damaged blob and returns std::nullopt.
std::optional<uint64_t> hash_of(const Layout & layout, Blob blob, uint64_t size) {
    const fs::path path = layout.blob(blob.digest);
    Reader reader({.fd = std::move(blob.fd), .path = path, .rows = Rows::contiguous(0, size), .digest = blob.digest},
                  [&](Damage, std::string_view reason) {
        log_warning("weight cache: removing {}: {}", path.string(), reason);
        platform::remove_name(path);
    });
    std::vector<std::byte> piece(chunk_size);
    uint64_t hash = wire::fnv1a_start;
    for (;;) {
        const auto got = reader.read(piece);
        if (!got || *got == 0) {
            break;
        }
        hash = wire::fnv1a(ConstBytes(piece).first(*got), hash);
    }
    return reader.verify() ? std::optional(hash) : std::nullopt;
}

}  // namespace

Result<bool> add_to_index(const Layout & layout, Key key, const std::string & digest) {
    // A second attempt in case the existing index file was damaged, or removed meanwhile.
    for (int round = 0; round < 2; ++round) {
        auto file = TemporaryFile::create(layout.temporary());
        if (!file) {
            return std::unexpected(file.error());
        }
        const std::string line = digest + "\n";
        const auto placed = file->write(const_bytes(line.data(), line.size()))
                                .and_then([&] { return file->close(); })
                                .and_then([&] { return file->move_if_absent(layout.index_file(key)); });
        if (!placed || *placed) {
            return placed;
        }
        if (const auto first = open_blob(layout, key)) {
            return first->digest == digest;
        }
    }
    return fail(Errc::unavailable, "cannot replace {}", layout.index_file(key).string());
}

void index_blobs(const Layout & layout, uint64_t size) {
    std::unordered_set<std::string> indexed;
    const std::string of_this_size = formatted("-{}", size);
    for (const std::string & name : names_in(layout.index())) {
        if (name.ends_with(of_this_size)) {
            indexed.insert(read_index_file(layout.index() / name));
        }
    }
    for (const std::string & digest : names_in(layout.blobs())) {
        auto blob = indexed.contains(digest) ? std::nullopt : open_blob(layout, digest, size);
        const auto hash = blob ? hash_of(layout, std::move(*blob), size) : std::nullopt;
        if (!hash) {
            continue;
        }
        if (const auto done = add_to_index(layout, {*hash, size}, digest); !done) {
            log_warning("weight cache: stock clients cannot find {}: {}", digest, done.error().text);
        } else if (!*done) {
            log_warning("weight cache: removing {}: another blob has the same FNV-1a hash and size", digest);
            platform::remove_name(layout.blob(digest));
        }
    }
}

}  // namespace caravan::cache
