// How a session's commands are written into its stream, in one of the two dialects.
//
// Nothing is sent here, and no answer expected: Connection does that. Threads: the stream's lock is held.
#pragma once

#include <memory>
#include <optional>

#include "client/stream.h"
#include "client/tensor_encoding.h"

namespace caravan::client {

// The program's read of a result.
struct ResultRead {
    wire::Region region;
    Range range;
    uint64_t offset = 0;
    size_t size = 0;
    bool operator==(const ResultRead &) const = default;
};

// What followed a graph's last launch without delay.
struct LaunchHabit {
    bool read_at_once = false;       // a read, by the program or for a relay, or a push
    std::optional<ResultRead> read;  // by the program
};

// A graph that the server keeps.
struct KeptGraph {
    Footprint footprint;
    LaunchHabit habit;
};

// A launch that is encoded, but not yet in the stream.
struct Launch {
    bool is_empty = true;          // nothing to compute
    KeptGraph * kept = nullptr;    // null: the server does not keep it
    Footprint own;                 // if it is not kept
    std::vector<std::byte> bytes;  // of the whole message
    const Footprint & footprint() const { return kept != nullptr ? kept->footprint : own; }
};

class Commands {
public:
    virtual ~Commands() = default;

    virtual void initialize(const wire::Region & region) = 0;
    virtual void fill(const wire::Region & region, uint64_t offset, uint64_t size, uint8_t value) = 0;
    // `size` bytes are to follow.
    virtual void write(const wire::Region & region, uint64_t offset, uint64_t size, bool keep) = 0;
    virtual void read(const wire::Region & region, uint64_t offset, uint64_t size) = 0;
    // True: an answer of one byte comes, 0 if it could not be done. False: it is done, there is none.
    virtual bool copy(const wire::Region & from, const wire::Region & to) = 0;
    virtual Launch prepare(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) = 0;
    // A buffer was freed: what the server may have forgotten is forgotten.
    virtual void forget_graphs() = 0;

    // The same in both dialects. `size * n_copies` bytes are to follow the first.
    void write_2d(const wire::Region & region, uint64_t offset, uint64_t size, uint64_t n_copies, uint64_t stride);
    void read_2d(const wire::Region & region, uint64_t offset, uint64_t size, uint64_t n_copies, uint64_t stride);

    template <class Request>
    void post(wire::Command command, const Request & request, uint64_t extra = 0) {
        const MutableBytes at = stream_.append(sizeof(wire::RequestHeader) + sizeof request);
        store(at.data(), wire::RequestHeader{command, sizeof request + extra});
        store(at.data() + sizeof(wire::RequestHeader), request);
    }
    void post(wire::Command command) {
        store(stream_.append(sizeof(wire::RequestHeader)).data(), wire::RequestHeader{command, 0});
    }

protected:
    explicit Commands(Stream & stream) : stream_(stream) {}

    Stream & stream_;
};

std::unique_ptr<Commands> make_stock_commands(Stream & stream);

// Beyond the stock dialect, to a Caravan server only.
class NativeCommands : public Commands {
public:
    // Sends to the other end of the link / receives what the server that was given the token sends. No answers.
    virtual void push(uint16_t link, const wire::Region & region) = 0;
    virtual void take(uint64_t token, const wire::Region & region) = 0;

    // `digest`: BLAKE3. An answer of one byte comes, 1 if the server had the bytes.
    virtual void find(const wire::Region & region, uint64_t offset, uint64_t size, ConstBytes digest) = 0;

    template <class Request>
    void post_native(wire::NativeCommand command, const Request & request, uint64_t extra = 0) {
        post(static_cast<wire::Command>(command), request, extra);
    }

protected:
    using Commands::Commands;
};

std::unique_ptr<NativeCommands> make_native_commands(Stream & stream);

}  // namespace caravan::client
