// Reads, writes and copies the bytes of a session's buffers, and sends replies, for both dialects. Used by the session's
// thread only.
//
// Callers pass checked regions (tensor_check.h). Each operation on a buffer first waits for the buffer's device, and for no
// other device.
#pragma once

#include <optional>
#include <string_view>
#include <vector>

#include "cache/weights.h"
#include "net/inbound.h"
#include "server/buffer_table.h"
#include "server/graph_runs.h"
#include "server/stale_memory.h"
#include "server/tensor_check.h"

namespace caravan::server {

// Deadline for a client to complete a message that it began, or to read a reply.
inline constexpr seconds client_stall{60};

// Reads the fixed part of a request.
template <class Request>
Result<Request> take_request(net::Inbound & in) {
    const auto bytes = in.peek(sizeof(Request));
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    const auto request = load<Request>(bytes->data());
    in.take(sizeof request);
    return request;
}

class Data {
public:
    // `weights` may be null.
    Data(net::Transport & transport, net::Inbound & in, GraphRuns & runs, BufferTable & buffers, cache::Weights * weights)
        : transport_(transport), in_(in), runs_(runs), buffers_(buffers), weights_(weights) {}

    // The client uses the native dialect, which can report errors.
    void set_native() { is_native_ = true; }
    bool is_native() const { return is_native_; }

    // Used by the native dialect only; in the stock dialect a failed launch ends the session. Every write clears its range.
    StaleMemory & stale() { return stale_; }
    bool is_stale(const CheckedRegion & tensor) const {
        return stale_.overlaps(tensor.address, tensor.address + tensor.tensor_bytes);
    }

    // GraphRuns::synchronize() for one device or all. A failed launch is reported to a native client and is the error
    // otherwise.
    Result<> synchronize(uint32_t device) { return report_failure(runs_.synchronize(device)); }
    Result<> synchronize() { return report_failure(runs_.synchronize()); }
    Result<> report_failure(Result<> launch);

    // Writes `size` bytes from `source` to the region. `keep`: they are weights, to be stored in the cache as well.
    Result<> write(net::Inbound & source, CheckedRegion & region, uint64_t size, bool keep);
    // Writes rows of `size` bytes, `stride` apart, from the client.
    Result<> write_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride);
    // Replies with `size` bytes of the region.
    Result<> read(CheckedRegion & region, uint64_t size);
    Result<> read_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride);
    // Passes all bytes of the tensor to `sink`, in pieces that are valid until it returns.
    Result<> read_to(CheckedRegion & region, const std::function<Result<>(ConstBytes)> & sink);
    Result<> fill(CheckedRegion & region, uint64_t size, uint8_t value);
    Result<> copy(CheckedRegion & from, CheckedRegion & to);
    Result<> initialize(CheckedRegion & region, const wire::Region & wired);

    // Loads `size` bytes into the region from the cache or a model file. False if they are not there.
    Result<bool> find_fnv(CheckedRegion & region, uint64_t size, uint64_t fnv);
    // Starts the same by digest. reply_to_finds() sends the reply, so that several finds are verified concurrently.
    Result<> find_digest(CheckedRegion & region, uint64_t size, ConstBytes digest);
    // Replies to all open finds, u8 each. Call it before any other reply, any access to a buffer, and before the session waits.
    Result<> reply_to_finds();
    bool has_cache() const { return weights_ != nullptr && weights_->may_find(); }

    template <class Answer>
    Result<> reply(const Answer & value) {
        return reply_bytes(const_bytes(&value, sizeof value));
    }
    Result<> reply_bytes(ConstBytes payload);
    // Sends a text of the given kind, instead of or between replies.
    Result<> reply_text(wire::AnswerKind kind, std::string_view text);

    uint64_t bytes_out() const { return bytes_out_; }
    // Bytes of weights by origin. Counts writes longer than find_threshold that the client marks to be kept (stock clients mark
    // those over 10 MiB), and finds.
    struct WeightBytes {
        uint64_t received = 0, from_cache = 0, from_models = 0;
    };
    const WeightBytes & weight_bytes() const { return weight_bytes_; }

private:
    struct OpenFind {
        std::optional<cache::Reader> entry;  // none: not found
        CheckedRegion region;
        uint64_t size = 0;
        MutableBytes place;  // memory that is being hashed
    };

    void clear_stale(const CheckedRegion & region, uint64_t offset, uint64_t size);
    MutableBytes scratch(uint64_t size);
    Result<> load(CheckedRegion & region, uint64_t size, cache::Reader & entry);
    // Verifies the bytes that load() read. On failure overwrites them with zeros and returns false.
    bool verify(CheckedRegion & region, uint64_t size, cache::Reader & entry);

    net::Transport & transport_;
    net::Inbound & in_;
    GraphRuns & runs_;
    BufferTable & buffers_;
    cache::Weights * weights_;
    bool is_native_ = false;
    StaleMemory stale_;
    std::vector<OpenFind> open_finds_;
    std::vector<std::byte> scratch_;
    uint64_t bytes_out_ = 0;
    WeightBytes weight_bytes_;
};

}  // namespace caravan::server
