// The client's side of a new connection: handshake, admission, and the choice of transport.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <stop_token>
#include <string>

#include "net/endpoint.h"
#include "net/no_rdma.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net {

// An open connection, for the client.
struct Opened {
    std::unique_ptr<Transport> transport;  // for a session: a ResumableTransport if both ends support resuming
    bool peer_is_caravan = false;
    bool peer_is_native = false;  // both ends speak the native dialect
    bool shares_memory = false;   // both ends can share memory, if they are on one machine
    NoRdma why_not_rdma;
    bool may_upgrade = false;  // a session over TCP whose transport supports begin_upgrade()
};

// An Opened on which no command has been sent.
struct Connected : Opened {
    uint64_t token = 0;       // from the server's HELLO
    bool can_resume = false;  // both ends support resuming
};

// How a client waits in the queue of a full server.
struct Queueing {
    TimePoint until = TimePoint::min();  // the handshake's deadline applies if it is later
    std::function<void(const wire::AdmissionReply & place)> on_wait;  // called whenever the place changes
};

// Why the client waits: "16 sessions are served, and this client is at place 2 of the queue".
std::string describe(const wire::AdmissionReply & place);

// A session without RDMA is an error if either end has GGML_RPC_TRANSPORT=rdma.
enum class RdmaUse {
    none,       // the connection carries no session
    avoided,    // only if the server ends sessions without RDMA
    deferred,   // as preferred, but not yet if the session can be resumed: Opened::may_upgrade
    preferred,  // where both ends support it
    required,   // without it: Errc::unsupported, before HELLO if this end is the reason
};

// Connects, performs the handshake and switches to RDMA according to `wanted`. Refuses a peer of an incompatible version
// (Errc::unsupported). `token` names the session of this connection; 0: none yet. `queueing` is for a
// connection that starts a session; null: do not request admission. Time in the queue does not count against `deadline`.
// `stop` ends the wait for RDMA's first messages.
Result<Connected> shake_hands(const Endpoint & endpoint, uint64_t token, RdmaUse wanted, TimePoint deadline,
                              const Queueing * queueing = nullptr, const std::stop_token & stop = {});

}  // namespace caravan::net
