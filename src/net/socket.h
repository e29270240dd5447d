// Stream sockets of the operating system: connecting, listening, options. POSIX only; a Windows port replaces this
// file's implementation, not its users.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "net/endpoint.h"

namespace caravan::net {

// Of send and its like: neither blocks nor raises SIGPIPE (where the system cannot say so, tune() has).
#ifdef MSG_NOSIGNAL
inline constexpr int send_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
#else
inline constexpr int send_flags = MSG_DONTWAIT;
#endif

// A connected, non-blocking, close-on-exec socket with the options of tune(). Tries every address of the name until
// the deadline. An error begins with "ENDPOINT: " and has advice.
Result<UniqueFd> connect_socket(const Endpoint & endpoint, TimePoint deadline);

// The addresses of a TCP endpoint's host, each as an endpoint of its own.
Result<std::vector<Endpoint>> addresses_of(const Endpoint & endpoint);

// ", uid 1000, pid 4711" of the process that connected to a Unix socket, where the system tells; else empty.
std::string peer_credentials(int fd);

// True if the other end is on this machine: a Unix socket, or over loopback.
bool is_local_peer(int fd);

struct Listener {
    UniqueFd fd;  // non-blocking, close-on-exec
    Endpoint endpoint;  // with the port that was really taken
    bool beyond_loopback = false;
};

// One listener for each address that `host` names ("localhost" may name two). Port 0 takes a free port, the same on
// all. For a Unix socket a stale file (nobody listens on it) is replaced.
Result<std::vector<Listener>> listen_on(const std::string & host, uint16_t port);
// The same in two steps: until the second, connections are refused, and a Unix socket has no file.
Result<std::vector<Listener>> bind_to(const std::string & host, uint16_t port);
Result<> start_listening(std::vector<Listener> & listeners);

// An accepted, tuned socket, or nothing if none was waiting.
Result<UniqueFd> accept_socket(int listener);

// Small messages leave at once (TCP_NODELAY), and a peer whose machine has gone is noticed within about a minute
// (keep-alive). Failures are ignored: a Unix socket has neither.
void tune(int fd);

// The same within about `silence`.
void keep_alive(int fd, seconds silence);

// Ends the connection at once, for all copies of `fd`. The peer sees one that broke, not one that was ended: nobody has
// left. (Not everywhere: elsewhere than on Linux, and on Unix sockets, it is ended.)
void break_off(int fd);

// "127.0.0.1:41874", "[::1]:41874", "local" for a Unix socket.
std::string peer_name(int fd);

// What tells one peer's connections from another's: the IPv4 address, the /64 network of an IPv6 address (one host has all
// of it), "uid:1000" over a Unix socket.
std::string peer_address(int fd);
bool is_unix_socket(int fd);

bool set_non_blocking(int fd, bool on);

}  // namespace caravan::net
