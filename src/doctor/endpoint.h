// What one server is, how it is reached, and what the way to it can do.
#pragma once

#include <functional>
#include <optional>
#include <string>

#include "doctor/machine.h"
#include "doctor/measure.h"
#include "net/endpoint.h"
#include "wire/extension.h"

namespace caravan::doctor {

// Which device, port and GID the connection would use, or why there is none.
struct GidChoice {
    bool found = false;
    std::string device;
    uint32_t port = 0, gid = 0;
    std::string why;
};

struct EndpointFacts {
    // How far it went.
    enum class Stage {
        no_address,    // the host's name means nothing
        unreachable,   // refused, or no route: something answered no
        silent,        // nothing answered in time
        no_handshake,  // connected, but it does not speak, or not this protocol
        other_version,
        reached,
    };
    std::string endpoint;
    Stage stage = Stage::unreachable;
    std::string failure;        // the reason of any stage but the last, without the endpoint
    Errc failure_code{};        // of the same
    std::string advice;         // what the user can do about it
    std::string local_address;  // of the connection, "" over a Unix socket
    bool is_local = false;      // over loopback or a Unix socket
    bool is_caravan = false;
    bool server_has_rdma = false;
    std::string version;                  // of the RPC protocol: "8.0.0"
    std::optional<GidChoice> choice;      // nothing in a build without RDMA, and over a Unix socket
    std::optional<wire::AdmissionAnswer> queue;  // a session had to wait, and there was no room in time
    std::string transport;                // what a session gets: "tcp", "unix", "rdma"
    std::string why_not_rdma;             // "" if it is RDMA or nobody wanted it
    std::optional<Measured> plain, rdma;  // over TCP (or a Unix socket), and over RDMA
};

// Called when the server is full, so that the session has to wait, for `patience.answer` at most.
using OnWait = std::function<void(const wire::AdmissionAnswer & place)>;

// Connects several times, one connection after the other: a stock server serves one at a time. Takes some seconds; where a
// peer stops answering not much more than `patience.answer`.
EndpointFacts examine_endpoint(const net::Endpoint & endpoint, const Patience & patience, const OnWait & on_wait = {});

}  // namespace caravan::doctor
