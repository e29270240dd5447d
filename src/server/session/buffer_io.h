// Reads, writes and copies the bytes of a session's buffers, for both dialects. Used by the session's thread only.
//
// Callers pass checked regions (tensor_check.h). Each operation first waits for the buffer's device, and for no other device.
// Every write marks its range as up to date (stale_memory.h).
#pragma once

#include <functional>

#include "net/inbound.h"
#include "server/graph/tensor_check.h"

namespace caravan::server {

struct SessionContext;

class BufferIo {
public:
    // `context` must outlive this.
    explicit BufferIo(SessionContext & context) : context_(context) {}

    // Writes `size` bytes from `source` to the region. `keep`: they are weights, to be stored in the cache as well.
    Result<> write(net::Inbound & source, CheckedRegion & region, uint64_t size, bool keep);
    // Writes rows of `size` bytes, `stride` apart, from the client.
    Result<> write_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride);
    // Replies with `size` bytes of the region.
    Result<> read(CheckedRegion & region, uint64_t size);
    Result<> read_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride);
    // Waits for the region's device. If `size` bytes of the region fit into one piece and are in memory that the processor
    // cannot address, reads them in the same wait and returns them, valid until the next operation. Otherwise returns none.
    Result<ConstBytes> wait_and_read(CheckedRegion & region, uint64_t size);
    // Passes all bytes of the tensor to `sink`, in pieces that are valid until it returns.
    Result<> read_to(CheckedRegion & region, const std::function<Result<>(ConstBytes)> & sink);
    Result<> fill(CheckedRegion & region, uint64_t size, uint8_t value);
    // Errc::invalid_argument if the layouts differ or the tensors overlap. A copy of stale bytes is stale.
    Result<> copy(CheckedRegion & from, CheckedRegion & to);
    // Lets the back-end initialize the tensor, including its padding.
    Result<> initialize(CheckedRegion & region, const wire::Region & wired);

    // Bytes of writes that are longer than wire::find_threshold and were to be kept. Stock clients mark those over 10 MiB.
    uint64_t weights_received() const { return weights_received_; }

private:
    SessionContext & context_;
    uint64_t weights_received_ = 0;
};

}  // namespace caravan::server
