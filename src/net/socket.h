// Stream sockets to and from endpoints: connecting, listening, options.
#pragma once

#include <string>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "net/endpoint.h"
#include "platform/socket.h"

namespace caravan::net {

// Returns a connected, non-blocking, close-on-exec socket with the options of tune(). Tries every address of the name
// until the deadline. An error begins with "ENDPOINT: " and has advice.
Result<UniqueFd> connect_socket(const Endpoint & endpoint, TimePoint deadline);

// The addresses of a TCP endpoint's host, each as an endpoint of its own.
Result<std::vector<Endpoint>> addresses_of(const Endpoint & endpoint);

// ", uid 1000, pid 4711" of the process that connected to a Unix socket, where the system reports it; else "".
std::string peer_credentials(SocketHandle socket);

// True if the peer is on this machine: connected over a Unix socket or loopback.
bool is_local_peer(SocketHandle socket);

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
Result<UniqueFd> accept_socket(SocketHandle listener);

// Sets TCP_NODELAY, and keep-alive such that the loss of the peer's machine is detected within about a minute. Failures are
// ignored: a Unix socket has neither option.
void tune(SocketHandle socket);

// Sets keep-alive such that the loss is detected within about `silence`.
void keep_alive(SocketHandle socket, seconds silence);

// "127.0.0.1:41874", "[::1]:41874", "local" for a Unix socket.
std::string peer_name(SocketHandle socket);

// The identity of a peer for limits per address: the IPv4 address, the /64 network of an IPv6 address (one host may use all
// of it), or "uid:1000" over a Unix socket.
std::string peer_address(SocketHandle socket);
bool is_unix_socket(SocketHandle socket);

using platform::set_non_blocking;

}  // namespace caravan::net
