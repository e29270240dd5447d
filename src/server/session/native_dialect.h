// Serves the commands of the native dialect (wire/native.h). Used by the session's thread only.
#pragma once

#include <optional>
#include <vector>

#include "server/session/dialect.h"
#include "server/session/native_graphs.h"
#include "server/session/reductions.h"
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
    const NativeGraphs & graphs() const { return graphs_; }

private:
    Result<> declare();
    Result<> write(uint64_t size);
    Result<> read();
    Result<> fill();
    Result<> copy();
    Result<> initialize();
    Result<> find();
    Result<> find_part();
    Result<> clock();
    Result<> spans();
    Result<> connect(uint64_t size);
    Result<> push();
    Result<> take_push();
    Result<> group(uint64_t size);
    Result<> reduce(uint64_t size);
    Result<> algorithm();

    Result<CheckedRegion> region(uint16_t slot, uint64_t offset, uint64_t size);
    Result<CheckedRegion> whole(uint16_t slot);
    // The tensor if it is empty, for commands that access no bytes; else `error`, with which whole() has failed.
    Result<CheckedRegion> without_buffer(uint16_t slot, Error error);

    SessionContext & context_;
    std::vector<std::optional<wire::Region>> slots_;
    NativeGraphs graphs_;
    Reductions reductions_;
};

}  // namespace caravan::server
