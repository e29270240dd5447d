// Serves the commands of the stock dialect (wire/stock.h). stock_buffers.h has its buffers, stock_graphs.h its graphs,
// stock_reductions.h its comm.
#pragma once

#include "server/session/dialect.h"
#include "server/session/session_context.h"
#include "server/session/stock_buffers.h"
#include "server/session/stock_graphs.h"
#include "server/session/stock_reductions.h"

namespace caravan::server {

class StockDialect final : public Dialect {
public:
    // `context` must outlive this.
    explicit StockDialect(SessionContext & context)
        : context_(context), buffers_(context), graphs_(context), reductions_(context) {}

    const char * name_of(wire::Command command) const override { return wire::command_name(command); }
    wire::PayloadBounds bounds_of(wire::Command command) const override { return wire::payload_bounds(command); }
    bool may_overtake_finds(wire::Command) const override { return false; }
    Result<> serve(wire::Command command, uint64_t size) override;
    void drop_graphs_using(uint64_t buffer) override { graphs_.drop_graphs_using(buffer); }

private:
    Result<> get_alignment();
    Result<> get_max_size();
    Result<> set_tensor(uint64_t size);
    Result<> set_tensor_2d(uint64_t size);
    Result<> set_tensor_hash();
    Result<> get_tensor();
    Result<> get_tensor_2d();
    Result<> copy_tensor();
    Result<> memset_tensor();
    Result<> init_tensor();
    Result<> get_alloc_size();

    SessionContext & context_;
    StockBuffers buffers_;
    StockGraphs graphs_;
    StockReductions reductions_;
};

}  // namespace caravan::server
