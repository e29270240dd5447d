#include "server/graph/touch_ahead.h"

#include <algorithm>

#include "platform/memory.h"
#include "tunables/session.h"

namespace caravan::server {

TouchAhead::~TouchAhead() {
    {
        std::lock_guard lock(mutex_);
        stopping_ = true;
    }
    changed_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

void TouchAhead::expect(MutableBytes memory) {
    std::lock_guard lock(mutex_);
    if (!supported_) {
        return;
    }
    const bool extends = !expected_.empty() && expected_.data() + expected_.size() == memory.data();
    expected_ = extends ? MutableBytes(expected_.data(), expected_.size() + memory.size()) : memory;
    if (!thread_.joinable()) {
        thread_ = std::thread([this] { work(); });
    }
    changed_.notify_all();
}

void TouchAhead::stop() {
    std::unique_lock lock(mutex_);
    expected_ = {};
    changed_.wait(lock, [this] { return !touching_; });
}

void TouchAhead::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [this] { return stopping_ || !expected_.empty(); });
        if (stopping_) {
            return;
        }
        const MutableBytes next = expected_.first(std::min(tunable::touched_piece, expected_.size()));
        expected_ = expected_.subspan(next.size());
        touching_ = true;
        lock.unlock();
        const bool touched = platform::populate(next);
        lock.lock();
        touching_ = false;
        if (!touched) {
            expected_ = {};
            supported_ = false;
        }
        changed_.notify_all();
    }
}

}  // namespace caravan::server
