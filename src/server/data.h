// The bytes of a session's buffers: written, read, copied. What both dialects do, once their messages are decoded. One
// thread.
//
// A region is checked when it is passed in (tensor_check.h). Whatever touches a buffer waits first for what its device
// computes, and for no other device.
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

// A client that stops in the middle of a message, or does not read its answer, is given up after this.
inline constexpr seconds client_stall{60};

// The fixed part of a request, which is next.
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

    // The client speaks the native dialect, so it can be told of what went wrong.
    void speak_native() { is_native_ = true; }
    bool is_native() const { return is_native_; }

    // Of the native dialect: a launch that fails in the other one ends the session. Whatever writes here clears it.
    StaleMemory & stale() { return stale_; }
    bool is_stale(const CheckedRegion & tensor) const { return stale_.overlaps(tensor.address, tensor.address + tensor.tensor_bytes); }

    // GraphRuns::settle, of one device or of all. A launch that failed is told to the client, or if it cannot be told is
    // the error.
    Result<> settle(uint32_t device) { return tell_if_failed(runs_.settle(device)); }
    Result<> settle() { return tell_if_failed(runs_.settle()); }
    Result<> tell_if_failed(Result<> launch);

    // `source` has the next `size` bytes for [region.offset, + size). `keep`: they are weights, for the cache too.
    Result<> write(net::Inbound & source, CheckedRegion & region, uint64_t size, bool keep);
    // `size` bytes for each row, `stride` apart, from the client.
    Result<> write_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride);
    // Answers with [region.offset, + size).
    Result<> read(CheckedRegion & region, uint64_t size);
    Result<> read_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride);
    // All bytes of the tensor, in pieces of host memory that are valid until the sink returns.
    Result<> read_to(CheckedRegion & region, const std::function<Result<>(ConstBytes)> & sink);
    Result<> fill(CheckedRegion & region, uint64_t size, uint8_t value);
    Result<> copy(CheckedRegion & from, CheckedRegion & to);
    Result<> initialize(CheckedRegion & region, const wire::Region & wired);

    // [region.offset, + size) from the cache; false if it is not there.
    Result<bool> find_fnv(CheckedRegion & region, uint64_t size, uint64_t fnv);
    // The same. Whether it is there is answered by settle_finds(), u8: several are hashed at the same time.
    Result<> find_digest(CheckedRegion & region, uint64_t size, ConstBytes digest);
    // Before anything else is answered or touches a buffer, and before the session waits.
    Result<> settle_finds();
    bool has_cache() const { return weights_ != nullptr && weights_->may_find(); }

    template <class Answer>
    Result<> answer(const Answer & value) {
        return answer_bytes(const_bytes(&value, sizeof value));
    }
    Result<> answer_bytes(ConstBytes payload);
    // A text in place of an answer, or between answers.
    Result<> tell(wire::AnswerKind kind, std::string_view text);

    uint64_t bytes_out() const { return bytes_out_; }
    // Where weights came from, in bytes: what is longer than find_threshold, and received what the client marks as worth
    // keeping besides. A stock client so marks what is longer than 10 MiB; what rpc-bench and rpc-doctor send is none.
    struct WeightBytes {
        uint64_t received = 0, from_cache = 0, from_models = 0;
    };
    const WeightBytes & weight_bytes() const { return weight_bytes_; }

private:
    struct OpenFind {
        std::optional<cache::Reader> entry;  // none: not there
        CheckedRegion region;
        uint64_t size = 0;
        MutableBytes place;  // what is being hashed
    };

    void clear_stale(const CheckedRegion & region, uint64_t offset, uint64_t size);
    MutableBytes scratch(uint64_t size);
    Result<> load(CheckedRegion & region, uint64_t size, cache::Reader & entry);
    // What load() has read, if it can be trusted; else zeros take its place, and it counts as not found.
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
