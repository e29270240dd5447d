// Examines one server and the network path to it.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "doctor/machine.h"
#include "doctor/measure.h"
#include "net/endpoint.h"
#include "net/no_rdma.h"
#include "wire/extension.h"

namespace caravan::doctor {

// The device, port and GID that the connection would use, or the reason why there are none.
struct GidChoice {
    bool found = false;
    std::string device;
    uint32_t port = 0, gid = 0;
    std::string why;
};

struct EndpointFacts {
    // The step that failed, or `reached`.
    enum class Stage {
        no_address,    // the host name has no address
        unreachable,   // refused, or no route
        silent,        // no connection in time
        no_handshake,  // connected, but no valid reply to HELLO
        other_version,
        reached,
    };
    std::string endpoint;
    Stage stage = Stage::unreachable;
    std::string failure;        // the reason of any stage but `reached`, without the endpoint
    Errc failure_code{};        // its code
    std::string advice;         // what the user can do
    std::string local_address;  // of the connection, "" over a Unix socket
    bool is_local = false;      // over loopback or a Unix socket
    bool is_caravan = false;
    bool server_has_rdma = false;
    std::string version;                  // of the RPC protocol: "8.0.0"
    std::optional<GidChoice> choice;      // empty in a build without RDMA, and over a Unix socket
    std::optional<wire::AdmissionReply> queue;  // set if no session was free in time
    std::optional<net::TransportKind> transport;  // of a session; empty: none could be opened, for the reason below
    net::NoRdma why_not_rdma;
    std::optional<Measured> plain, rdma;  // over TCP or a Unix socket; over RDMA
};

// Called once if the server is full and the session is queued, for `limits.reply` at most.
using OnWait = std::function<void(const wire::AdmissionReply & place)>;

// Opens several connections, one after the other: a stock server serves one at a time. Takes some seconds; if the peer stops
// replying, little more than `limits.reply`.
EndpointFacts examine_endpoint(const net::Endpoint & endpoint, const Limits & limits, const OnWait & on_wait = {});

}  // namespace caravan::doctor
