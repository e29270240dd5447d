// Reads kept bytes into their destination, and says afterwards whether they may be trusted.
#pragma once

#include <cstdint>
#include <filesystem>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "cache/background_digest.h"
#include "cache/digest.h"
#include "wire/stock.h"

namespace caravan::cache {

// Bytes within a file, and what they have to be: a blob of the store, or a tensor of a model file.
struct Content {
    UniqueFd fd;
    std::filesystem::path path;  // for messages
    uint64_t offset = 0;         // bytes
    uint64_t size = 0;           // bytes
    std::string digest;
    bool is_sealed = false;  // no process that serves a peer can open the file to write, if this path is its only one
    // What was asked for: the digest was looked up by it, in a file that may be forged. Nothing if the digest was.
    std::optional<uint64_t> fnv{};
};

enum class Damage {
    bytes,  // the bytes are not those of the digest
    hash,   // the digest is not that of the FNV-1a 64
};

// From Store or ModelIndex, which it may outlive. One thread at a time.
class Reader {
public:
    // Called once if the bytes prove to be wrong.
    using OnDamage = std::function<void(Damage damage, std::string_view reason)>;

    Reader(Content content, OnDamage on_damage) : content_(std::move(content)), on_damage_(std::move(on_damage)) {}

    // Before read(): puts pages of the file in the place of those of `to`, as long as the contents, where that is safe and
    // worth it. For how many of the first bytes: read() goes on behind them. `to` is private memory, of whole pages, and
    // stays that: what is written there later does not reach the file. It is left as it is until verify().
    size_t map(MutableBytes to);

    // The next bytes, as many as fit, at most 1 MiB at a time; 0 at the end (or for no room). Fails with Errc::io.
    // `stays`: what was read is left as it is until verify(), so it may be hashed later.
    Result<size_t> read(MutableBytes to, bool stays = false);

    // True if everything was read and is what was stored: until then the bytes are nobody's. False: an entry of the
    // store was removed, it is mapped no longer, and the caller does as if nothing had been found. The caller then wipes
    // what was read before its client can see it: nobody knows whose bytes these are. Call it where reading
    // ended, with an error too; not where the caller gave up for reasons of its own, since that would remove a good entry.
    bool verify();

    uint64_t size() const { return content_.size; }

    // For counts: a tensor of a model file, not a blob of the store.
    void set_from_model() { from_model_ = true; }
    bool from_model() const { return from_model_; }

private:
    bool from_model_ = false;
    Content content_;
    OnDamage on_damage_;
    Blake3 digest_;
    std::unique_ptr<BackgroundDigest> background_;  // in its place, of large contents that stay
    void hash(ConstBytes data, bool stays);

    MutableBytes mapped_;
    uint64_t fnv_ = wire::fnv1a_start;
    uint64_t taken_ = 0;  // bytes read so far, at most content_.size
    std::optional<bool> verdict_;
};

}  // namespace caravan::cache
