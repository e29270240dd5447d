#include "client/session/session_history.h"

#include <utility>

#include "client/session/connection.h"

namespace caravan::client {

uint64_t SessionHistory::begin() {
    const std::lock_guard lock(mutex_);
    return ++sessions_;
}

void SessionHistory::set_live(std::weak_ptr<Connection> session) {
    const std::lock_guard lock(mutex_);
    live_ = std::move(session);
}

void SessionHistory::notify_loss(const Error & error) {
    const std::lock_guard lock(callback_mutex_);
    if (callback_) {
        callback_(error);
    }
}

void SessionHistory::end(SessionRecord last) {
    const std::lock_guard lock(mutex_);
    if (!last_ || last_->number < last.number) {  // a lost session may end after the next one
        last_ = std::move(last);
    }
}

std::optional<SessionRecord> SessionHistory::latest() {
    std::shared_ptr<Connection> live;  // outlives the lock: its end takes the lock
    const std::lock_guard lock(mutex_);
    live = live_.lock();
    return live != nullptr ? live->record() : last_;
}

void SessionHistory::set_loss_callback(LossCallback callback) {
    const std::lock_guard lock(callback_mutex_);
    callback_ = std::move(callback);
}

}  // namespace caravan::client
