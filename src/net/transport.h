// A reliable, ordered, full-duplex stream of bytes to one peer: what the rest of Caravan sees of a network.
//
// send and receive never block; wait does. Threads: one thread at a time may call send, and one receive; wait and wake
// may be called from any thread at any time. After an error (or Errc::closed) the transport stays broken.
// Ownership: buffers belong to the caller and are not used after the call returns.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"

namespace caravan::net {

// At most this many parts are looked at in one send or receive.
inline constexpr size_t max_parts = 64;

struct Interest {
    bool read = false;
    bool write = false;
};

class Transport {
public:
    virtual ~Transport() = default;

    // Takes some bytes off the front of the parts, in order. Returns how many; 0: the transport is full for now.
    virtual Result<size_t> send(std::span<const ConstBytes> parts) = 0;

    // These bytes, which will be sent, stay where they are until end_loan(): a transport that would keep a copy need not.
    // One loan at a time.
    virtual void lend(ConstBytes) {}
    virtual void end_loan() {}

    // Fills the parts, in order. Returns how many bytes; 0: nothing is here for now. Errc::closed: the peer has ended.
    virtual Result<size_t> receive(std::span<const MutableBytes> parts) = 0;

    // Returns when what is asked for may be possible, when wake was called, or at the deadline (false).
    // For up to `spin` it watches instead of sleeping.
    virtual Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) = 0;

    // Ends a wait of another thread, or the next one. Never blocks.
    virtual void wake() = 0;

    // False while the connection is broken and is being made again.
    virtual bool is_connected() const { return true; }

    // `done` is called once, by another thread, if the connection is lost for good while nobody uses it. Before the first
    // use. Only transports that look after idle connections do.
    virtual void when_lost(std::function<void(const Error &)> done) { (void)done; }

    // Ends the connection as if it had broken, not in an orderly way: so the peer sees it. To be destroyed after that.
    virtual void break_off() {}

    // "tcp", "unix", "rdma": for people.
    virtual std::string_view kind() const = 0;
};

// A network over which nothing comes for so long though the peer's machine has to answer is as good as broken.
inline constexpr seconds network_patience{15};

// Owns a connected, non-blocking stream socket (TCP or Unix). `patience`: if the peer's machine acknowledges nothing for
// so long, wait fails with Errc::timed_out; for those who can connect again. 0: the operating system decides, after
// minutes. Linux only, and never the fault of a peer that is busy or stopped: its machine acknowledges for it.
Result<std::unique_ptr<Transport>> make_socket_transport(UniqueFd socket, seconds patience = seconds(0));

}  // namespace caravan::net
