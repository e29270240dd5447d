// Encodes a session's commands into its stream, in one of the two dialects.
//
// Neither sends nor expects replies; Connection does. Threads: the caller holds the stream's lock.
#pragma once

#include <memory>
#include <optional>

#include "client/encode/tensor_encoding.h"
#include "client/session/stream.h"
#include "wire/frame.h"

namespace caravan::client {

// A read of a result by the program.
struct ResultRead {
    wire::Region region;
    Range range;
    uint64_t offset = 0;
    size_t size = 0;
    bool operator==(const ResultRead &) const = default;
};

// The command that followed a graph's last launch without delay.
struct LaunchHabit {
    bool immediate_read = false;     // a read by the program or a relay, or a push
    std::optional<ResultRead> read;  // a read by the program
};

// A graph that the server stores.
struct KeptGraph {
    Footprint footprint;
    LaunchHabit habit;
};

// An encoded launch that was not appended to the stream yet.
struct Launch {
    bool is_empty = true;          // nothing to compute
    KeptGraph * kept = nullptr;    // null if the server does not store the graph
    Footprint own;                 // used if it does not
    std::vector<std::byte> bytes;  // the whole message
    const Footprint & footprint() const { return kept != nullptr ? kept->footprint : own; }
};

class Commands {
public:
    virtual ~Commands() = default;

    virtual void initialize(const wire::Region & region) = 0;
    virtual void fill(const wire::Region & region, uint64_t offset, uint64_t size, uint8_t value) = 0;
    // The caller appends `size` bytes.
    virtual void write(const wire::Region & region, uint64_t offset, uint64_t size, bool keep) = 0;
    virtual void read(const wire::Region & region, uint64_t offset, uint64_t size) = 0;
    // True if the server replies with one byte, 0 on failure. False if it does not reply and cannot fail.
    virtual bool copy(const wire::Region & from, const wire::Region & to) = 0;
    virtual Launch prepare(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) = 0;
    // A buffer was freed: forgets the graphs that the server may have dropped.
    virtual void forget_graphs() = 0;

    // The same in both dialects. After write_2d() the caller appends `size * n_copies` bytes.
    void write_2d(const wire::Region & region, uint64_t offset, uint64_t size, uint64_t n_copies, uint64_t stride);
    void read_2d(const wire::Region & region, uint64_t offset, uint64_t size, uint64_t n_copies, uint64_t stride);

    template <class Request>
    void post(wire::Command command, const Request & request, uint64_t extra = 0) {
        stream_.append(wire::frame(command, request, extra));
    }
    void post(wire::Command command) { stream_.append(wire::frame_header(command)); }

protected:
    explicit Commands(Stream & stream) : stream_(stream) {}

    Stream & stream_;
};

std::unique_ptr<Commands> make_stock_commands(Stream & stream);

// Additional commands of the native dialect.
class NativeCommands : public Commands {
public:
    // The server sends the region over the link / receives it over the link with the token. No replies.
    virtual void push(uint16_t link, const wire::Region & region) = 0;
    virtual void take(uint64_t token, const wire::Region & region) = 0;

    // The server replaces the regions by their sum over all servers of the group.
    virtual void reduce(const wire::ReduceRequest & request, std::span<const wire::Region> regions) = 0;

    // `digest` is a BLAKE3. The server replies with one byte, 1 if it had the data.
    virtual void find(const wire::Region & region, uint64_t offset, uint64_t size, ConstBytes digest) = 0;
    // The same for packed rows of a tensor: the request has all but the slot and the offset in the region.
    virtual void find_part(const wire::Region & region, uint64_t offset, wire::FindPartRequest request) = 0;

    template <class Request>
    void post_native(wire::NativeCommand command, const Request & request, uint64_t extra = 0) {
        post(static_cast<wire::Command>(command), request, extra);
    }

protected:
    using Commands::Commands;
};

std::unique_ptr<NativeCommands> make_native_commands(Stream & stream);

}  // namespace caravan::client
