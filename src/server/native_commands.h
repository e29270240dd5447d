// The native dialect's commands (wire/native.h) of one session. One thread.
#pragma once

#include <optional>
#include <vector>

#include "server/data.h"
#include "server/graph_runs.h"
#include "server/memory_budget.h"
#include "server/peers.h"
#include "wire/native.h"

namespace caravan::server {

class NativeCommands {
public:
    // `peers` may be null: then no other server can be connected with.
    NativeCommands(net::Inbound & in, Devices & devices, BufferTable & buffers, MemoryBudget & memory, Data & data,
                   GraphRuns & runs, Spans & spans, Peers * peers);

    // `size`: of the payload, within payload_bounds().
    Result<> serve(wire::NativeCommand command, uint64_t size);

    // A buffer is about to be freed: nothing runs, and graphs that need it go.
    void forget(uint64_t buffer);

private:
    struct KeptGraph {
        std::vector<wire::GraphTensor> tensors;  // what a later difference may refer to
        MemoryClaim tensors_memory;
        std::optional<Graph> built;  // not if it could not be, if a buffer of it has gone, or to make room for others
        MemoryClaim built_memory;
        uint32_t device = 0;
        bool is_given = false;
        uint64_t used = 0;  // when: of all launches, the number of its last

        void drop_built() {
            built.reset();
            built_memory = {};
        }
    };

    Result<> declare();
    Result<> write(uint64_t size);
    Result<> read();
    Result<> fill();
    Result<> copy();
    Result<> initialize();
    Result<> graph(uint64_t size);
    Result<> launch();
    Result<> launch(KeptGraph & kept);
    Result<> run(KeptGraph & kept);
    bool reads_stale(const KeptGraph & kept) const;
    void mark_results(const KeptGraph & kept, bool are_stale);
    Result<> make_room(uint64_t bytes, const KeptGraph & without);
    Result<> build(KeptGraph & kept);
    Result<> supports(uint64_t size);
    Result<> find();
    Result<> clock();
    Result<> spans();
    Result<> connect(uint64_t size);
    Result<> push();
    Result<> take_push();

    Result<std::vector<std::byte>> take_rest(uint64_t size);
    Result<CheckedRegion> region(uint16_t slot, uint64_t offset, uint64_t size);
    Result<CheckedRegion> whole(uint16_t slot);

    net::Inbound & in_;
    Devices & devices_;
    BufferTable & buffers_;
    MemoryBudget & memory_;
    Data & data_;
    GraphRuns & runs_;
    Spans & spans_;
    Peers * const peers_;
    std::vector<std::optional<wire::Region>> slots_;
    std::vector<KeptGraph> graphs_;
    size_t kept_tensors_ = 0;  // of all of them
    // By device. A server that receives from this one must not compute from results that are older than they seem.
    std::vector<bool> lacks_input_;  // a TAKE failed since the last launch
    std::vector<bool> is_stale_;     // the last launch failed
    std::vector<const KeptGraph *> last_launched_;  // null: none yet
};

}  // namespace caravan::server
