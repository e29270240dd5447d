// The graphs that sessions leave to later worker processes: a spare worker computes those of earlier sessions, one after the
// other, so that it can serve a client between two of them. Used by one thread.
#pragma once

#include <cstdint>
#include <deque>
#include <memory>
#include <unordered_set>

#include "base/bytes.h"
#include "base/clock.h"
#include "platform/unique_fd.h"
#include "server/graph/warm_up.h"

namespace caravan::server {

// Writes encoded graphs to shared memory of tunable::warm_up_bytes. Returns their size; 0 if that fails.
uint64_t write_graphs(Descriptor memory, ConstBytes graphs);

class WarmUps {
public:
    // `devices` must outlive this.
    explicit WarmUps(Devices & devices) : devices_(devices) {}

    // Takes the graphs in the first `size` bytes of shared memory of tunable::warm_up_bytes, which another process may change
    // at any time, in place of those that are left. Graphs that were computed before are left out.
    void begin(Descriptor memory, uint64_t size);
    bool has_next() const { return !graphs_.empty(); }
    // Computes the next graph. Frees all memory after the last one.
    void compute_next();
    // Forgets the graphs that are left, and frees all memory.
    void stop();

private:
    Devices & devices_;
    std::deque<WarmGraph> graphs_;
    std::unique_ptr<WarmUp> warm_up_;
    std::unordered_set<uint64_t> computed_;  // hashes
    uint32_t n_computed_ = 0;                // since begin()
    milliseconds::rep time_ = 0;
};

}  // namespace caravan::server
