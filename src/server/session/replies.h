// Sends a session's replies to its client. Used by the session's thread only.
#pragma once

#include <string_view>

#include "base/bytes.h"
#include "base/clock.h"
#include "net/inbound.h"
#include "wire/native.h"

namespace caravan::server {

class Replies {
public:
    // `transport` must outlive this.
    explicit Replies(net::Transport & transport) : transport_(transport) {}

    bool use_rdma() const { return transport_.kind() == net::TransportKind::rdma; }

    // The client uses the native dialect, which can report errors.
    void set_native() { is_native_ = true; }
    bool is_native() const { return is_native_; }

    template <class Reply>
    Result<> send(const Reply & value) {
        return send_bytes(const_bytes(&value, sizeof value));
    }
    Result<> send_bytes(ConstBytes payload);
    // Begins a reply of `size` bytes with `first`. The caller sends the rest with append().
    Result<> begin(uint64_t size, ConstBytes first = {});
    Result<> append(ConstBytes bytes);
    // Sends a text of the given kind, instead of or between replies. Truncates it to wire::max_error_text.
    Result<> send_text(wire::ReplyKind kind, std::string_view text);
    // Reports a failed launch to a native client. Returns `launch` unchanged in the stock dialect.
    Result<> report_failure(Result<> launch);

    // Bytes of all replies, headers included.
    uint64_t bytes_sent() const { return bytes_sent_; }

private:
    net::Transport & transport_;
    bool is_native_ = false;
    uint64_t bytes_sent_ = 0;
};

}  // namespace caravan::server
