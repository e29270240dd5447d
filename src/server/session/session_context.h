// The state of one session that its dialects share. Used by the session's thread only.
#pragma once

#include <algorithm>
#include <functional>
#include <vector>

#include "cache/weights.h"
#include "net/inbound.h"
#include "server/graph/buffer_table.h"
#include "server/graph/devices.h"
#include "server/graph/graph_runs.h"
#include "server/graph/spans.h"
#include "server/ipc/machine_memory.h"
#include "server/links/links.h"
#include "server/links/stock_pairing.h"
#include "server/session/buffer_io.h"
#include "server/session/memory_budget.h"
#include "server/session/replies.h"
#include "server/session/staging.h"
#include "server/session/stale_memory.h"
#include "server/session/weight_lookups.h"

namespace caravan::server {

struct SessionContext {
    // As Session's constructor.
    SessionContext(net::Transport & transport, ConstBytes already, Devices & devices, cache::Weights * cache, Links * links,
                   uint64_t max_memory, MachineMemory * machine);
    SessionContext(const SessionContext &) = delete;

    // GraphRuns::synchronize() for one device or all. A failed launch is reported to a native client and is the error
    // otherwise.
    Result<> synchronize(uint32_t device) { return replies.report_failure(runs.synchronize(device)); }
    Result<> synchronize() { return replies.report_failure(runs.synchronize()); }
    // The same for GraphRuns::synchronize_and_read().
    Result<> synchronize_and_read(uint32_t device, const ggml_tensor & tensor, uint64_t offset, MutableBytes to) {
        return replies.report_failure(runs.synchronize_and_read(device, tensor, offset, to));
    }

    bool is_stale(const CheckedRegion & tensor) const {
        return stale.overlaps(tensor.address, tensor.address + tensor.tensor_bytes);
    }
    // Marks [offset, offset + size) of the tensor as up to date.
    void clear_stale(const CheckedRegion & tensor, uint64_t offset, uint64_t size) {
        stale.clear(tensor.address + offset, tensor.address + offset + size);
    }

    // Reads the rest of a payload. Allocates memory as bytes arrive, because the announced size is not trusted.
    Result<std::vector<std::byte>> read_payload(uint64_t size);

    // Reads the fixed part of a request and returns what `handler` returns for it.
    template <class Request, class Handler>
    Result<> serve(Handler handler) {
        const auto bytes = in.peek(sizeof(Request));
        if (!bytes) {
            return std::unexpected(bytes.error());
        }
        const auto request = load<Request>(bytes->data());
        in.take(sizeof request);
        return handler(request);
    }
    // The same for a request whose member `device` must be the index of a device.
    template <class Request, class Handler>
    Result<> serve_on_device(Handler handler) {
        return serve<Request>([&](const Request & request) {
            return devices.check(request.device).and_then([&] { return handler(request); });
        });
    }

    net::Inbound in;
    Devices & devices;
    cache::Weights * const cache;   // may be null
    Links * const links;            // may be null: links are refused
    MachineMemory * const machine;  // may be null
    StockPairing * pairing = nullptr;  // null: COMM_INIT is declined
    BufferTable buffers;
    Spans spans;
    GraphRuns runs;
    MemoryBudget memory;
    Replies replies;
    StaleMemory stale;  // used by the native dialect only; in the stock dialect a failed launch ends the session
    Staging staging;
    BufferIo io;
    WeightLookups lookups;
    // Called before a buffer is freed, when no graph is running. Drops the graphs of all dialects that use it.
    std::function<void(uint64_t buffer)> on_free;
};

}  // namespace caravan::server
