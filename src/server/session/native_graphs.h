// The graphs of a native session, in slots. A graph arrives as a difference to an earlier one and is launched by its slot. Used
// by the session's thread only.
#pragma once

#include <algorithm>
#include <vector>

#include "server/graph/warm_graphs.h"
#include "server/session/graph_store.h"
#include "server/session/session_context.h"
#include "wire/native.h"

namespace caravan::server {

class NativeGraphs {
public:
    // `context` must outlive this.
    explicit NativeGraphs(SessionContext & context);

    // The commands GRAPH, LAUNCH and SUPPORTS. `size`: of the payload, bytes.
    Result<> define(uint64_t size);
    Result<> launch();
    Result<> supports(uint64_t size);

    // Drops built graphs only. Their tensors stay as bases of later differences.
    void drop_graphs_using(uint64_t buffer) { store_.drop_using(buffer); }
    // Whether results of the device must not be sent to another server.
    bool last_launch_failed(uint32_t device) const { return is_stale_[device]; }
    // Input of the device was not received: its next launch fails.
    void note_missing_input(uint32_t device) { lacks_input_[device] = true; }
    // The graphs that GPUs and the like have computed.
    std::vector<GraphView> graphs_of_accelerators() const;
    // The client knows of all failures: no launch fails for an earlier one, unless it reads stale memory.
    void forget_missing_input() { std::ranges::fill(lacks_input_, false); }

private:
    struct KeptGraph {
        std::vector<wire::GraphTensor> tensors;  // base of later differences
        MemoryClaim tensors_memory;
        uint32_t device = 0;
        bool is_given = false, was_built = false;
    };

    Result<> launch(KeptGraph & kept);
    Result<> run(KeptGraph & kept);
    bool reads_stale(const KeptGraph & kept) const;
    void mark_results(const KeptGraph & kept, bool are_stale);
    Result<StoredGraph *> build(KeptGraph & kept);
    uint64_t slot_of(const KeptGraph & kept) const { return static_cast<uint64_t>(&kept - graphs_.data()); }
    StoredGraph * built(const KeptGraph & kept) { return store_.find(0, slot_of(kept)); }

    SessionContext & context_;
    std::vector<KeptGraph> graphs_;
    GraphStore store_;  // by slot. A graph is missing if building failed, a buffer was freed, or it was evicted
    size_t kept_tensors_ = 0;  // in all graph slots
    // By device. They keep outdated results from being sent to other servers or computed from.
    std::vector<bool> lacks_input_;  // TAKE failed since the last launch
    std::vector<bool> is_stale_;     // the last launch failed
    std::vector<const KeptGraph *> last_launched_;  // null: none yet
};

}  // namespace caravan::server
