// The beginning of a connection, seen from the client and from the server's worker: handshake and choice of transport.
#pragma once

#include <memory>
#include <optional>
#include <string>

#include "net/endpoint.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net {

#ifdef GGML_RPC_RDMA
inline constexpr bool has_rdma = true;
#else
inline constexpr bool has_rdma = false;
#endif

// GGML_RPC_TRANSPORT.
enum class TransportWish {
    automatic,  // RDMA if both ends have it
    tcp,        // never RDMA
    rdma,       // a connection without RDMA is an error
};
TransportWish transport_wish();

// What this build and the environment let us say in HELLO.
wire::Extension own_extension();

struct Opened {
    std::unique_ptr<Transport> transport;  // a session's is a ResumableTransport where both ends have that
    bool peer_is_caravan = false;
    bool peer_is_native = false;  // speaks the native dialect, as we do
    std::string why_not_rdma;  // empty if it is RDMA, or if nobody wanted it
};

// Connects, shakes hands, refuses a peer of another version, and, if `for_session`, changes to RDMA where possible.
Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline);

// The worker's side: `first` is the header of the first command that the front door did not answer. If it is an offer
// of RDMA, it is answered, and the transport that comes of it returned; `first` is then used up. So it is if it begins
// a session in records, which only a client that `can_resume` does.
struct Accepted {
    std::unique_ptr<Transport> transport;
    bool first_is_used = false;
    bool in_records = false;
};
Result<Accepted> open_server(UniqueFd socket, ConstBytes first, bool can_resume);

// A link from this server to the session at `endpoint` that gave out `token`. RDMA where possible.
Result<std::unique_ptr<Transport>> open_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline);

// The other end of that, and who comes to resume a session or a link. The rest as in open_server().
struct Comer {
    std::unique_ptr<Transport> transport;
    std::optional<wire::ResumeRequest> resume;  // it resumes; the answer is still to be given
};
Result<Comer> open_for_token(UniqueFd socket, ConstBytes first, bool can_resume);

}  // namespace caravan::net
