#include "client/session/launch_prediction.h"

#include <algorithm>
#include <utility>

namespace caravan::client {

void LaunchPrediction::begin_launch() {
    reads_overlap_ = last_read_ > last_awaited_;
    last_read_ = 0;
}

void LaunchPrediction::launched(KeptGraph * graph, TimePoint now) {
    last_ = graph;
    last_time_ = now;
    consecutive_new_graphs_ = graph != nullptr && graph->habit.read ? 0 : consecutive_new_graphs_ + 1;
}

const ResultRead * LaunchPrediction::predicted_read() const {
    return !reads_overlap_ && last_ != nullptr && last_->habit.read ? &*last_->habit.read : nullptr;
}

bool LaunchPrediction::should_confirm() const {
    const bool is_short_step = last_result_time_ < short_step && consecutive_new_graphs_ > max_new_graphs;
    return !reads_overlap_ && last_ != nullptr && !last_->habit.read && !is_short_step;
}

bool LaunchPrediction::hold() {
    if (last_ == nullptr || !last_->habit.immediate_read) {
        return false;
    }
    held_ = last_;
    return true;
}

void LaunchPrediction::result_arrived(std::chrono::nanoseconds after, TimePoint now) {
    last_time_ = now;
    last_result_time_ = after;
}

void LaunchPrediction::record_habit(std::optional<ResultRead> read, TimePoint now) {
    if (last_ != nullptr) {
        const bool is_immediate = now - last_time_ < immediate_read_limit;
        last_->habit = {is_immediate, is_immediate ? std::move(read) : std::nullopt};
    }
    last_ = held_ = nullptr;
}

void LaunchPrediction::record_reduction() {
    if (last_ != nullptr) {
        last_->habit = {.immediate_read = true, .read = std::nullopt};
    }
    last_ = held_ = nullptr;
}

bool LaunchPrediction::end_launch() {
    if (last_ != nullptr) {
        last_->habit = {};
        last_ = nullptr;
    }
    return std::exchange(held_, nullptr) != nullptr;
}

void LaunchPrediction::take_prefetched() {
    prefetched_.reset();
    last_ = nullptr;
}

void LaunchPrediction::discard_prefetched() {
    prefetched_.reset();
    if (last_ != nullptr) {
        last_->habit.read.reset();
    }
}

void LaunchPrediction::record_await(uint64_t ticket) { last_awaited_ = std::max(last_awaited_, ticket); }

}  // namespace caravan::client
