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

namespace caravan::cache {

// Bytes within a file, and what they have to be: a blob of the store, or a tensor of a model file.
struct Content {
    UniqueFd fd;
    std::filesystem::path path;  // for messages
    uint64_t offset = 0;         // bytes
    uint64_t size = 0;           // bytes
    std::string digest;
};

// From Store or ModelIndex, which it may outlive. One thread at a time.
class Reader {
public:
    // Called once if the bytes prove to be wrong, with the reason.
    using OnDamage = std::function<void(std::string_view reason)>;

    Reader(Content content, OnDamage on_damage) : content_(std::move(content)), on_damage_(std::move(on_damage)) {}

    // The next bytes, as many as fit, at most 1 MiB at a time; 0 at the end (or for no room). Fails with Errc::io.
    // `stays`: what was read is left as it is until verify(), so it may be hashed later.
    Result<size_t> read(MutableBytes to, bool stays = false);

    // True if everything was read and is what was stored: until then the bytes are nobody's. False: an entry of the
    // store was removed, and the caller does as if nothing had been found. Call it where reading ended, with an error
    // too; not where the caller gave up for reasons of its own, since that would remove a good entry.
    bool verify();

    uint64_t size() const { return content_.size; }

private:
    Content content_;
    OnDamage on_damage_;
    Blake3 digest_;
    std::unique_ptr<BackgroundDigest> background_;  // in its place, of large contents that stay
    uint64_t taken_ = 0;  // bytes read so far, at most content_.size
    std::optional<bool> verdict_;
};

}  // namespace caravan::cache
