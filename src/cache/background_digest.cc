#include "cache/background_digest.h"

namespace caravan::cache {

BackgroundDigest::BackgroundDigest() : thread_([this] { work(); }) {}

BackgroundDigest::~BackgroundDigest() { finish(); }

void BackgroundDigest::update(ConstBytes data) {
    {
        std::lock_guard lock(mutex_);
        pieces_.push_back(data);
    }
    changed_.notify_one();
}

std::string BackgroundDigest::hex() {
    finish();
    return digest_.hex();
}

void BackgroundDigest::finish() {
    {
        std::lock_guard lock(mutex_);
        is_complete_ = true;
    }
    changed_.notify_one();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void BackgroundDigest::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return is_complete_ || !pieces_.empty(); });
        if (pieces_.empty()) {
            return;
        }
        const ConstBytes piece = pieces_.front();
        pieces_.pop_front();
        lock.unlock();
        digest_.update(piece);
        lock.lock();
    }
}

}  // namespace caravan::cache
