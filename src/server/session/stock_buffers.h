// The commands for buffers, which both dialects use, and for the memory that is free for them. Used by the session's thread
// only.
#pragma once

#include "server/session/session_context.h"

namespace caravan::server {

class StockBuffers {
public:
    // `context` must outlive this.
    explicit StockBuffers(SessionContext & context) : context_(context) {}

    Result<> get_device_memory();  // GET_DEVICE_MEMORY
    Result<> allocate();           // ALLOC_BUFFER
    Result<> get_base();           // BUFFER_GET_BASE
    Result<> free();               // FREE_BUFFER
    Result<> clear();              // BUFFER_CLEAR

private:
    Result<> claim_machine_memory(uint32_t device, uint64_t size);

    SessionContext & context_;
};

}  // namespace caravan::server
