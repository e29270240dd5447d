#pragma once

#include <memory>
#include <utility>

#include "net/inbound.h"

namespace caravan::server {

// The receiving end of a link.
class LinkReceiver {
public:
    // `shares_memory`: both ends can share memory.
    explicit LinkReceiver(std::unique_ptr<net::Transport> transport, bool shares_memory = false);

    // Waits for the next message, which must have `size` bytes; read them from bytes(). Errc::unavailable if the link broke
    // or the other server could not compute the bytes, Errc::protocol if number or size are wrong.
    Result<> begin(uint64_t size);
    net::Inbound & bytes() { return in_; }
    // As LinkSender::take_over().
    net::Transport * take_over();
    bool shares_memory() const { return shares_memory_; }

private:
    const std::unique_ptr<net::Transport> transport_;
    const bool shares_memory_;
    net::Inbound in_;
    uint64_t next_ = 0;
    bool is_taken_ = false;
};

}  // namespace caravan::server
