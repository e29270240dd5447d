// A client of one server for whoever measures: the stock dialect over a client::Stream, as client::Connection has it, but
// over a transport of the caller's choice and with an end to its patience.
//
// Threads: one. Failure: sticky, as the Stream's.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "client/stream.h"
#include "wire/stock.h"

namespace caravan::doctor {

struct Patience {
    milliseconds answer{5000};    // how long a peer may make no progress at all
    milliseconds bandwidth{500};  // about how long data flows in each direction
    milliseconds whole{30'000};   // all measuring of one connection: also a peer that trickles comes to an end
};

// A region of the server's memory, as a row of floats.
struct Region {
    wire::AllocBufferAnswer buffer{};
    uint64_t base = 0;

    wire::Tensor tensor() const;
};

class Conversation {
public:
    Conversation(std::unique_ptr<net::Transport> transport, const Patience & patience);

    std::string kind() const { return std::string(stream_.transport_kind()); }
    const std::optional<Error> & failure() const { return stream_.failure(); }

    template <class Answer, class Request>
    Result<Answer> ask(wire::Command command, const Request & request) {
        post(command, request);
        return answer<Answer>();
    }
    Result<uint32_t> device_count();

    // The buffer of device 0: up to `most` bytes, a whole number of MiB, and no more than a quarter of `free`.
    Result<Region> allocate(uint64_t free, uint64_t most);
    Result<> release(const Region & region);

    // Up to 64 KiB are copied into the batch, as the plug-in does; more leave from `data`, which is then free again.
    Result<> write(const Region & region, uint64_t offset, ConstBytes data);
    // `dest` must live until the ticket has been awaited.
    client::Stream::Ticket read(const Region & region, uint64_t offset, MutableBytes dest);
    Result<> await(client::Stream::Ticket ticket) { return stream_.await(lock_, ticket); }

private:
    template <class Request>
    void post(wire::Command command, const Request & request, size_t extra = 0) {
        const MutableBytes at = stream_.append(sizeof(wire::RequestHeader) + sizeof request);
        store(at.data(), wire::RequestHeader{command, sizeof request + extra});
        store(at.data() + sizeof(wire::RequestHeader), request);
    }
    template <class Answer>
    Result<Answer> answer() {
        Answer out{};
        if (auto done = await(stream_.expect(mutable_bytes(&out, sizeof out))); !done) {
            return std::unexpected(done.error());
        }
        return out;
    }

    client::Stream stream_;
    client::Stream::Lock lock_;
};

}  // namespace caravan::doctor
