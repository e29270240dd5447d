// BLAKE3 of data in memory, computed in a thread of its own, so that hashing overlaps with reading.
//
// Only one thread at a time may use an object.
#pragma once

#include <condition_variable>
#include <deque>
#include <mutex>
#include <string>
#include <thread>

#include "base/bytes.h"
#include "cache/digest.h"

namespace caravan::cache {

class BackgroundDigest {
public:
    BackgroundDigest();
    ~BackgroundDigest();
    BackgroundDigest(const BackgroundDigest &) = delete;
    BackgroundDigest & operator=(const BackgroundDigest &) = delete;

    // Queues `data`, which must stay valid and unchanged until hex() or the destructor returns.
    void update(ConstBytes data);
    // Waits for the digest of all queued data and returns it as lower-case hex. Call it once, after the last update().
    std::string hex();

private:
    void work();
    void finish();

    Blake3 digest_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<ConstBytes> pieces_;
    bool is_complete_ = false;
    std::thread thread_;
};

}  // namespace caravan::cache
