// Moves bytes between the session's thread and devices' memory that the processor cannot address, through pieces of host
// memory. A long transfer is copied by a thread of its own, piece by piece, while the session's thread receives or sends the
// next piece.
//
// Used by the session's thread only. Nothing may be computing on the tensor's device.
#pragma once

#include <array>
#include <functional>
#include <memory>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"
#include "ggml-backend.h"
#include "tunables/session.h"

namespace caravan::server {

class CopyThread;

class Staging {
public:
    Staging();
    ~Staging();
    Staging(const Staging &) = delete;

    // Writes `size` bytes to the tensor from `offset` on. `fill` fills a prefix of a piece and returns its length, or 0 to end.
    // Returns the number of bytes written, or the error of `fill`; the device has all bytes of earlier calls then.
    Result<uint64_t> write(ggml_tensor & tensor, uint64_t offset, uint64_t size,
                           const std::function<Result<size_t>(MutableBytes piece)> & fill);
    // Passes `size` bytes of the tensor to `sink`, in pieces that are valid until it returns.
    Result<> read(ggml_tensor & tensor, uint64_t offset, uint64_t size, const std::function<Result<>(ConstBytes)> & sink);

    // One piece, of at most `size` bytes, to be used until the next call of any function.
    MutableBytes piece(uint64_t size);

private:
    struct BufferDeleter {
        void operator()(ggml_backend_buffer_t buffer) const { ggml_backend_buffer_free(buffer); }
    };
    // The memory of piece `index`, of at most `size` bytes.
    MutableBytes place(size_t index, uint64_t size);
    void allocate(const ggml_tensor & tensor);
    CopyThread & thread();

    // Pinned memory of the first device that needs a long transfer, if its back-end has such memory: drivers copy it directly.
    std::unique_ptr<ggml_backend_buffer, BufferDeleter> pinned_;
    std::array<MutableBytes, tunable::staging_pieces> pinned_pieces_{};
    std::array<std::vector<std::byte>, tunable::staging_pieces> pageable_;
    std::unique_ptr<CopyThread> thread_;
};

}  // namespace caravan::server
