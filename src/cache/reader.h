// Reads stored weights into their destination and verifies them afterwards.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "cache/background_digest.h"
#include "cache/digest.h"
#include "cache/rows.h"
#include "platform/unique_fd.h"
#include "wire/stock.h"

namespace caravan::cache {

// Bytes of a file and their expected digests: a blob of the store, a tensor of a model file, or a part of either.
struct Content {
    UniqueFd fd;
    std::filesystem::path path;  // for messages, and to verify that it still names the file
    Rows rows;                   // in the file
    std::string digest;          // BLAKE3 of the packed rows, lower-case hex
    bool is_sealed = false;      // no process that serves a peer can open the file for writing through `path`
    // The FNV-1a 64 that the client asked for, if it did: the index that led to `digest` may be forged.
    std::optional<uint64_t> fnv{};
};

enum class Damage {
    bytes,  // the bytes do not match the digest
    hash,   // the bytes match the digest, but not the FNV-1a 64
};

// Comes from Store or ModelIndex, and may outlive it. Only one thread at a time may use an object.
class Reader {
public:
    // Called at most once, by verify(), if the bytes are not the expected ones.
    using OnDamage = std::function<void(Damage damage, std::string_view reason)>;

    Reader(Content content, OnDamage on_damage) : content_(std::move(content)), on_damage_(std::move(on_damage)) {}

    // Restricts this to a part, whose digest is `digest`, of the bytes that it would read. They must be contiguous, and `part`
    // must lie within them. A mismatch is then no proof of damage, since the client may be wrong: nothing is removed. Call it
    // first.
    void narrow(const Rows & part, std::string_view digest);

    // Maps the whole pages of the content over the beginning of `to`, where that is safe and large enough to pay off.
    // Returns the number of bytes mapped, from 0; read() continues after them. Call it before read(). `to` has the size of
    // the content and is page-aligned private memory. It stays private: later writes to it do not reach the file. The caller
    // must not modify it before verify().
    size_t map(MutableBytes to);

    // Reads the next bytes, at most chunk_size. Returns their number; 0 at the end, or if `to` is empty. Errc::io on a read
    // error. `is_stable`: the caller does not modify these bytes before verify(), so they may be hashed in the background.
    Result<size_t> read(MutableBytes to, bool is_stable = false);

    // Returns true if all bytes were read and match the digests. The bytes must not be used before. If it returns false, a
    // damaged entry has been removed from the store and `to` of map() is zeroed; the caller must then wipe the bytes that it
    // read, which may be another client's, and proceed as if nothing had been found. Call it when reading is over, also
    // after a read error, but not if the caller stops early: that would remove a good entry.
    bool verify();

    uint64_t size() const { return content_.rows.bytes(); }

    // For statistics: marks the content as a tensor of a model file rather than a blob of the store.
    void set_from_model() { from_model_ = true; }
    bool from_model() const { return from_model_; }

private:
    bool from_model_ = false;
    Content content_;
    OnDamage on_damage_;
    Blake3 digest_;
    std::unique_ptr<BackgroundDigest> background_;  // replaces digest_ for large stable content
    void hash(ConstBytes data, bool is_stable);
    Result<size_t> read_packed(MutableBytes to);

    MutableBytes mapped_;
    uint64_t fnv_ = wire::fnv1a_start;
    uint64_t done_ = 0;  // bytes mapped or read so far, at most size()
    std::vector<std::byte> with_gaps_;  // rows as they are in the file
    std::optional<bool> is_verified_;
};

}  // namespace caravan::cache
