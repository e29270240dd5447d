// Keeps the bytes of an upload while they pass. Never in the upload's way: whatever goes wrong here is logged once and
// ends the keeping, not the upload.
#pragma once

#include <atomic>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_set>

#include "base/bytes.h"
#include "base/error.h"
#include "cache/digest.h"
#include "cache/layout.h"
#include "cache/temporary_file.h"
#include "wire/stock.h"

namespace caravan::cache {

// A store's own, shared with its writers. A process that serves a session has one.
struct StoreState {
    // The session uses weights with this digest ("": not known) and size, found or stored. Warns once if all that it uses
    // exceeds the limit.
    void note_used(std::string_view digest, uint64_t size);


    Layout layout;
    uint64_t max_bytes = 0;           // 0: no limit
    std::string problem;              // at the start: why nothing can be kept
    std::atomic<bool> failed{false};  // something could not be written, so nothing more is tried: one warning, not many
    std::atomic<bool> was_full{false};  // a warning said that no room can be made
    std::atomic<bool> is_sealed{false};  // Weights::seal
    std::mutex mutex;
    std::unordered_set<uint64_t> entered;  // sizes of which enter_blobs() was done
    std::unordered_set<std::string> used;  // digests; with their bytes
    uint64_t used_bytes = 0;
    bool is_too_small = false;  // a warning said that the session's weights exceed the limit
};

// By what an entry can be found at once. By its BLAKE3 always; the other takes longer, and can be made up for later.
enum class Keys { digest, digest_and_fnv };

// From Store::begin, which it may outlive. One thread at a time. Blocks for as long as the disk does. Without commit(),
// the destructor leaves nothing behind. A killed process leaves one file in tmp/ or, if it happens within commit(), a
// blob that the index does not name yet: the next upload of the same bytes takes its place.
class Writer {
public:
    void append(ConstBytes data);

    // Once, after the last byte. True: the bytes are in the store and other processes find them. False: they were not
    // as many as announced, could not be written, had no room, or the store has other bytes under the same FNV-1a and size. That
    // hash is no defence against somebody who looks for collisions, so what was stored first stays: no peer can
    // replace what another one stored.
    bool commit();

private:
    friend class Store;
    Writer(std::shared_ptr<StoreState> store, uint64_t size, Keys keys, TemporaryFile file)
        : store_(std::move(store)), size_(size), file_(std::move(file)) {
        if (keys == Keys::digest_and_fnv) {
            fnv_ = wire::fnv1a_start;
        }
    }

    // For the next `size` bytes.
    bool has_room(uint64_t size);
    void give_up(std::string_view reason);
    void give_up(const Error & error);  // the disk's fault: for the whole store

    std::shared_ptr<StoreState> store_;
    uint64_t size_;  // bytes announced
    TemporaryFile file_;
    uint64_t taken_ = 0;  // bytes appended so far, at most size_
    uint64_t room_ = 0;   // bytes for which room was made
    std::optional<uint64_t> fnv_;
    Blake3 digest_;
    bool over_ = false;  // committed or given up
};

}  // namespace caravan::cache
