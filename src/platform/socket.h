// Stream sockets of the operating system. Sockets made here are non-blocking and not inherited by child processes. Threads:
// as the system's calls; one thread may send while another receives.
#pragma once

#include <span>
#include <string>

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"
#include "platform/address.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

// Errc::io if the system refuses one.
Result<UniqueFd> open_socket(SocketAddress::Family family);

// Connects within the deadline. The error's text is the system's reason. Errc::unavailable: nothing listens there;
// Errc::timed_out and Errc::reset may be temporary; Errc::io: any other reason, such as a missing route.
Result<> connect(SocketHandle socket, const SocketAddress & address, TimePoint deadline);

// Errc::not_found: this machine does not have the address. Errc::unavailable: any other reason, which is the error's text.
Result<> bind(SocketHandle socket, const SocketAddress & address);
Result<> listen(SocketHandle socket);

// Empty if no connection waits.
Result<UniqueFd> accept(SocketHandle listener);

// Failures are ignored: a Unix socket has none of these options.
struct KeepAlive {
    seconds idle;      // until the first probe
    seconds interval;  // between probes
    int tries;         // lost probes that break the connection
};
void set_keep_alive(SocketHandle socket, const KeepAlive & values);
void send_without_delay(SocketHandle socket);  // TCP_NODELAY; and where a signal reports a closed peer, disables that
void allow_address_reuse(SocketHandle socket);
void set_ipv6_only(SocketHandle socket, bool on);

bool set_non_blocking(Descriptor fd, bool on);

// Resets the connection at once, for all copies of the handle, so that the peer sees a failure and not an orderly close. On
// Unix sockets, and on systems that cannot, it is an orderly close.
void reset_connection(SocketHandle socket);

// Ends both directions; copies of the handle are affected too. stop_sending(): only the one to the peer.
void shut_down(SocketHandle socket);
void stop_sending(SocketHandle socket);

// Another handle for the same file or socket, not inherited by child processes. Errc::io.
Result<UniqueFd> duplicate(Descriptor fd);

// The result of one attempt to move bytes, which never blocks.
struct Moved {
    enum class Status : uint8_t {
        some,         // `bytes` were moved, more than 0
        would_block,  // none for now
        closed,       // receiving: the peer closed in order
        reset,        // the connection was reset or closed
        silent,       // the system ended a connection whose peer's machine did not reply
        failed,
    };
    size_t bytes = 0;
    Status status = Status::some;
    int code = 0;  // the system's, for why()
    std::string why() const;
};

// At most this many parts are used in one call.
inline constexpr size_t max_io_parts = 64;
Moved send_parts(SocketHandle socket, std::span<const ConstBytes> parts);
Moved receive_parts(SocketHandle socket, std::span<const MutableBytes> parts);
Moved send_bytes(SocketHandle socket, ConstBytes bytes);
Moved receive_bytes(SocketHandle socket, MutableBytes bytes);
// Reports whether receive_bytes() would move any, and moves none.
Moved peek(SocketHandle socket);

// The process at the other end of a Unix socket when it connected. std::nullopt for other sockets, or if the system does
// not report it.
struct PeerProcess {
    uint32_t user;
    int pid;
};
std::optional<PeerProcess> peer_process(SocketHandle socket);

// The state of a TCP connection according to the system. All zero for other sockets, or if it is not reported.
struct AckState {
    bool is_pending = false;        // the peer's machine owes an acknowledgement
    bool is_retransmitted = false;  // for data sent more than twice, or for a window probe
    milliseconds age{};             // time since the last acknowledgement
};
AckState ack_state_of(SocketHandle socket);

// The smoothed round-trip time of a TCP connection according to the system; zero as above.
microseconds round_trip_of(SocketHandle socket);

}  // namespace caravan::platform
