// Stream sockets of the operating system: connecting, listening, options. The implementation is POSIX only.
#pragma once

#include <sys/socket.h>

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "base/unique_fd.h"
#include "net/endpoint.h"

namespace caravan::net {

// Flags for send(): do not block, do not raise SIGPIPE (on systems without MSG_NOSIGNAL tune() disables it).
#ifdef MSG_NOSIGNAL
inline constexpr int send_flags = MSG_NOSIGNAL | MSG_DONTWAIT;
#else
inline constexpr int send_flags = MSG_DONTWAIT;
#endif

// Returns a connected, non-blocking, close-on-exec socket with the options of tune(). Tries every address of the name
// until the deadline. An error begins with "ENDPOINT: " and has advice.
Result<UniqueFd> connect_socket(const Endpoint & endpoint, TimePoint deadline);

// The addresses of a TCP endpoint's host, each as an endpoint of its own.
Result<std::vector<Endpoint>> addresses_of(const Endpoint & endpoint);

// ", uid 1000, pid 4711" of the process that connected to a Unix socket, where the system reports it; else "".
std::string peer_credentials(int fd);

// True if the peer is on this machine: connected over a Unix socket or loopback.
bool is_local_peer(int fd);

struct Listener {
    UniqueFd fd;  // non-blocking, close-on-exec
    Endpoint endpoint;  // with the port actually bound
    bool beyond_loopback = false;
};

// Opens one listener for each address of `host` ("localhost" may have two). Port 0 selects a free port, the same for all.
// A stale file of a Unix socket (no process listens on it) is replaced.
Result<std::vector<Listener>> listen_on(const std::string & host, uint16_t port);
// The same in two steps. Before start_listening(), connections are refused, and a Unix socket has no file.
Result<std::vector<Listener>> bind_to(const std::string & host, uint16_t port);
Result<> start_listening(std::vector<Listener> & listeners);

// Returns an accepted, tuned socket, or an empty UniqueFd if no connection was waiting.
Result<UniqueFd> accept_socket(int listener);

// Sets TCP_NODELAY, and keep-alive such that the loss of the peer's machine is detected within about a minute. Failures are
// ignored: a Unix socket has neither option.
void tune(int fd);

// Sets keep-alive such that the loss is detected within about `silence`.
void keep_alive(int fd, seconds silence);

// Resets the connection at once, for all copies of `fd`, so that the peer sees a failure and not an orderly close. On Unix
// sockets and on systems other than Linux it is an orderly close.
void break_off(int fd);

// "127.0.0.1:41874", "[::1]:41874", "local" for a Unix socket.
std::string peer_name(int fd);

// The identity of a peer for limits per address: the IPv4 address, the /64 network of an IPv6 address (one host may use all
// of it), or "uid:1000" over a Unix socket.
std::string peer_address(int fd);
bool is_unix_socket(int fd);

bool set_non_blocking(int fd, bool on);

}  // namespace caravan::net
