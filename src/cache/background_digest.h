// BLAKE3 in a thread of its own, of bytes that stay where they are: what is read is hashed while the next is being read.
//
// Threads: one, besides its own.
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

    // `data` must stay as it is until hex() returns, or the destructor.
    void update(ConstBytes data);
    // Of everything. Once.
    std::string hex();

private:
    void work();
    void finish();

    Blake3 digest_;
    std::mutex mutex_;
    std::condition_variable changed_;
    std::deque<ConstBytes> pieces_;
    bool is_all_ = false;
    std::thread thread_;
};

}  // namespace caravan::cache
