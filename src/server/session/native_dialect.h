// Serves the commands of the native dialect (wire/native.h). Used by the session's thread only.
#pragma once

#include <optional>
#include <vector>

#include "server/session/dialect.h"
#include "server/session/graph_store.h"
#include "server/session/session_context.h"
#include "wire/native.h"

namespace caravan::server {

class NativeDialect final : public Dialect {
public:
    // `context` must outlive this.
    explicit NativeDialect(SessionContext & context);

    const char * name_of(wire::Command command) const override;
    wire::PayloadBounds bounds_of(wire::Command command) const override;
    bool may_overtake_finds(wire::Command command) const override;
    Result<> serve(wire::Command command, uint64_t size) override;
    // Drops built graphs only. Their tensors stay as bases of later differences.
    void drop_graphs_using(uint64_t buffer) override;

private:
    struct KeptGraph {
        std::vector<wire::GraphTensor> tensors;  // base of later differences
        MemoryClaim tensors_memory;
        uint32_t device = 0;
        bool is_given = false;
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
    Result<StoredGraph *> build(const KeptGraph & kept);
    uint64_t slot_of(const KeptGraph & kept) const { return static_cast<uint64_t>(&kept - graphs_.data()); }
    StoredGraph * built(const KeptGraph & kept) { return store_.find(0, slot_of(kept)); }
    Result<> supports(uint64_t size);
    Result<> find();
    Result<> clock();
    Result<> spans();
    Result<> connect(uint64_t size);
    Result<> push();
    Result<> take_push();

    Result<std::vector<std::byte>> read_payload(uint64_t size);
    Result<CheckedRegion> region(uint16_t slot, uint64_t offset, uint64_t size);
    Result<CheckedRegion> whole(uint16_t slot);

    SessionContext & context_;
    std::vector<std::optional<wire::Region>> slots_;
    std::vector<KeptGraph> graphs_;
    GraphStore store_;  // by slot. A graph is missing if building failed, a buffer was freed, or it was evicted
    size_t kept_tensors_ = 0;  // in all graph slots
    // By device. They keep outdated results from being sent to other servers or computed from.
    std::vector<bool> lacks_input_;  // TAKE failed since the last launch
    std::vector<bool> is_stale_;     // the last launch failed
    std::vector<const KeptGraph *> last_launched_;  // null: none yet
};

}  // namespace caravan::server
