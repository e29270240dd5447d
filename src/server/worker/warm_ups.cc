#include "server/worker/warm_ups.h"

#include <algorithm>
#include <cstring>

#include "base/counted.h"
#include "base/log.h"
#include "platform/shared_memory.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

Result<platform::SharedMapping> map(Descriptor memory) {
    return platform::check_shared_memory(memory, tunable::warm_up_bytes).and_then([&] {
        return platform::SharedMapping::map(memory, tunable::warm_up_bytes);
    });
}

}  // namespace

uint64_t write_graphs(Descriptor memory, ConstBytes graphs) {
    const auto mapped = map(memory);
    if (!mapped || graphs.empty() || graphs.size() > mapped->bytes().size()) {
        return 0;
    }
    std::memcpy(mapped->bytes().data(), graphs.data(), graphs.size());
    return graphs.size();
}

void WarmUps::begin(Descriptor memory, uint64_t size) {
    stop();
    const auto mapped = map(memory);
    if (!mapped || size > mapped->bytes().size()) {
        return;
    }
    const auto shared = mapped->bytes().first(size);
    const std::vector<std::byte> copy(shared.begin(), shared.end());
    for (WarmGraph & graph : decode_warm_graphs(copy)) {
        if (computed_.insert(hash_of(graph)).second) {
            graphs_.push_back(std::move(graph));
        }
    }
}

void WarmUps::compute_next() {
    const TimePoint begin = Clock::now();
    const WarmGraph graph = std::move(graphs_.front());
    graphs_.pop_front();
    if (warm_up_ == nullptr) {
        warm_up_ = std::make_unique<WarmUp>(devices_);
    }
    if (const auto done = warm_up_->compute(graph); !done) {
        log_debug("did not compute a graph of an earlier session: {}", done.error().text);
    } else {
        ++n_computed_;
    }
    time_ += std::chrono::duration_cast<milliseconds>(Clock::now() - begin).count();
    if (graphs_.empty()) {
        stop();
    }
}

void WarmUps::stop() {
    if (warm_up_ != nullptr) {
        warm_up_.reset();
        log_debug("computed {} of earlier sessions in {} ms, {} left", counted(n_computed_, "graph"), time_, graphs_.size());
    }
    graphs_.clear();
    n_computed_ = 0;
    time_ = 0;
}

}  // namespace caravan::server
