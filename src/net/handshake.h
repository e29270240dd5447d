// The handshake and the choice of transport on a new connection, for the client and for the server's worker.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "net/endpoint.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net {

#ifdef GGML_RPC_RDMA
inline constexpr bool built_with_rdma = true;
#else
inline constexpr bool built_with_rdma = false;
#endif

// The reason why this program cannot use RDMA (build option, missing libibverbs), or "". The first call loads libibverbs.
// Threads: any.
const std::string & why_no_rdma();

// The capabilities of this build and environment, for HELLO. The token is 0.
wire::Extension own_extension();

// An open connection, for the client.
struct Opened {
    std::unique_ptr<Transport> transport;  // for a session: a ResumableTransport if both ends support resuming
    bool peer_is_caravan = false;
    bool peer_is_native = false;  // both ends speak the native dialect
    std::string why_not_rdma;  // empty if the transport is RDMA or RDMA was not requested
};

// An Opened on which no command has been sent.
struct Connected : Opened {
    uint64_t token = 0;       // from the server's HELLO
    bool can_resume = false;  // both ends support resuming
};

// How a client waits in the queue of a full server.
struct Queueing {
    TimePoint until = TimePoint::min();  // the handshake's deadline applies if it is later
    std::function<void(const wire::AdmissionAnswer & place)> on_wait;  // called whenever the place changes
};

// Why the client waits: "16 sessions are served, and this client is at place 2 of the queue".
std::string describe(const wire::AdmissionAnswer & place);

// Connects, performs the handshake and, if `may_be_rdma`, switches to RDMA where both ends support it. Refuses a peer of an
// incompatible version (Errc::unsupported). `token` names the session of this connection; 0: none yet. `queueing` is for a
// connection that starts a session; null: do not request admission. Time in the queue does not count against `deadline`.
Result<Connected> shake_hands(const Endpoint & endpoint, uint64_t token, bool may_be_rdma, TimePoint deadline,
                              const Queueing * queueing = nullptr);

// The worker's side of a session's connection. `first` is the header of the first command that the front door did not
// handle. Replies to ADMISSION and RDMA_OFFER, and consumes RECORDS, which only a client that `can_resume` sends.
struct Accepted {
    std::unique_ptr<Transport> transport;
    std::vector<std::byte> first;  // bytes already received of the session's first command
    bool in_records = false;
};
Result<Accepted> open_server(UniqueFd socket, ConstBytes first, bool can_resume);

// The reply to LINK: u64 1, u8 1.
inline constexpr std::array link_answer{std::byte{1}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0},
                                        std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}};

// The worker's side of a connection whose HELLO carries a token: a new link (see open_link()), or an attempt to resume a
// session or link. Replies to LINK; the caller replies to RESUME. Parameters as for open_server().
struct TokenConnection {
    std::unique_ptr<Transport> transport;
    std::optional<wire::ResumeRequest> resume;  // absent: a new link
};
Result<TokenConnection> accept_with_token(UniqueFd socket, ConstBytes first, bool can_resume);

}  // namespace caravan::net
