// Stores the bytes of an upload as they arrive. A failure is logged, and does not affect the upload itself.
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

// The state of a Store, shared with its writers. A process that serves a session has one.
struct StoreState {
    // Records that the session uses weights of this digest ("" if unknown) and size, found or stored. Logs one warning when
    // the total exceeds the limit.
    void note_used(std::string_view digest, uint64_t size);

    Layout layout;
    uint64_t max_bytes = 0;              // 0: no limit
    std::string problem;                 // Store::problem()
    std::atomic<bool> failed{false};     // after a write error, or if read-only: nothing is stored, and no more warnings
    std::atomic<bool> was_full{false};   // the warning that nothing can be evicted has been logged
    std::atomic<bool> is_sealed{false};  // Weights::seal()
    std::mutex mutex;                    // guards the members below
    std::unordered_set<uint64_t> indexed_sizes;  // arguments of index_blobs() so far
    std::unordered_set<std::string> used;        // digests of the weights that the session uses
    uint64_t used_bytes = 0;                     // total size of these weights
    bool is_too_small = false;                   // the warning that they exceed the limit has been logged
};

// The hashes by which a new entry can be found. FNV-1a takes longer to compute, and can be added later (fnv_index.h).
enum class Keys { digest, digest_and_fnv };

// Comes from Store::begin(), and may outlive the Store. Only one thread at a time may use an object. Its functions block on
// disk I/O. Without commit(), the destructor leaves nothing behind. A killed process leaves a file in tmp/ or, if it was
// killed in commit(), a blob without an index entry; the next upload of the same bytes replaces it.
class Writer {
public:
    void append(ConstBytes data);

    // Call it once, after the last byte. Returns true if the entry is in the store, where all processes find it. Returns
    // false if the number of bytes is not the announced one, they could not be written, no space could be made, or the
    // store has other bytes under the same FNV-1a and size. Such a collision may be deliberate, so the first entry stays: no
    // client can replace the entry of another one.
    bool commit();

private:
    friend class Store;
    Writer(std::shared_ptr<StoreState> store, uint64_t size, Keys keys, TemporaryFile file)
        : store_(std::move(store)), size_(size), file_(std::move(file)) {
        if (keys == Keys::digest_and_fnv) {
            fnv_ = wire::fnv1a_start;
        }
    }

    // Evicts other entries if needed, so that the next `size` bytes fit.
    bool reserve(uint64_t size);
    void abandon(std::string_view reason);
    void abandon(const Error & error);  // a disk error: nothing more is stored in this process

    std::shared_ptr<StoreState> store_;
    uint64_t size_;  // bytes announced
    TemporaryFile file_;
    uint64_t done_ = 0;      // bytes appended so far, at most size_
    uint64_t reserved_ = 0;  // bytes, from the first, for which there is space
    std::optional<uint64_t> fnv_;
    Blake3 digest_;
    bool is_over_ = false;  // committed or abandoned
};

}  // namespace caravan::cache
