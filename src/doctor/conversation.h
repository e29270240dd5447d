// A client of one server, for measurements: the stock dialect over a client::Stream, as in client::Connection, but over a
// transport of the caller's choice, and limited in time.
//
// Only one thread may use an object. A failure is permanent, as a Stream's.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "base/clock.h"
#include "client/session/stream.h"
#include "wire/frame.h"
#include "wire/stock.h"

namespace caravan::doctor {

struct Limits {
    milliseconds reply{5000};     // limit of a period without progress
    milliseconds bandwidth{500};  // approximate duration of each bandwidth measurement
    milliseconds total{30'000};   // limit of all measurements of one connection; ends those of a peer that trickles
};

// A region of the server's memory, seen as a row of floats.
struct Region {
    wire::AllocBufferReply buffer{};
    uint64_t base = 0;

    wire::Tensor tensor() const;
};

class Conversation {
public:
    Conversation(std::unique_ptr<net::Transport> transport, const Limits & limits);

    // Of the connection when it was opened.
    net::TransportKind kind() const { return kind_; }
    uint32_t queue_pairs() const { return queue_pairs_; }
    // Call this after each measurement: an error if the connection broke, so that another one, perhaps of another kind, was
    // measured too.
    Result<> check_connection() const;
    const std::optional<Error> & failure() const { return stream_.failure(); }

    template <class Reply, class Request>
    Result<Reply> request(wire::Command command, const Request & payload) {
        post(command, payload);
        return receive<Reply>();
    }
    Result<uint32_t> device_count();

    // Allocates a buffer on device 0 of at most `most` bytes and a quarter of `free`, a whole number of MiB, at least one.
    // Errc::no_memory if the server refuses 1 MiB.
    Result<Region> allocate(uint64_t free, uint64_t most);
    Result<> release(const Region & region);

    // Copies up to 64 KiB into the batch, as the plug-in does. Sends longer data from `data` before it returns.
    Result<> write(const Region & region, uint64_t offset, ConstBytes data);
    // `dest` must stay valid until the ticket has been awaited.
    client::Stream::Ticket read(const Region & region, uint64_t offset, MutableBytes dest);
    Result<> await(client::Stream::Ticket ticket) { return stream_.await(lock_, ticket); }

private:
    template <class Request>
    void post(wire::Command command, const Request & request, size_t extra = 0) {
        stream_.append(wire::frame(command, request, extra));
    }
    template <class Reply>
    Result<Reply> receive() {
        Reply out{};
        if (auto done = await(stream_.expect(mutable_bytes(&out, sizeof out))); !done) {
            return std::unexpected(done.error());
        }
        return out;
    }

    const net::TransportKind kind_;
    const uint32_t queue_pairs_;
    client::Stream stream_;
    client::Stream::Lock lock_;
};

}  // namespace caravan::doctor
