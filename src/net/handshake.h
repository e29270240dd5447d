// The beginning of a connection, seen from the client and from the server's worker: handshake and choice of transport.
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

// Why this program cannot use RDMA: the build, or a libibverbs that is not installed. "" if it can. Loads the library when
// first called. Threads: any.
const std::string & why_no_rdma();

// What this build and the environment let us say in HELLO.
wire::Extension own_extension();

// A connection, seen from the client.
struct Opened {
    std::unique_ptr<Transport> transport;  // a session's is a ResumableTransport where both ends have that
    bool peer_is_caravan = false;
    bool peer_is_native = false;  // speaks the native dialect, as we do
    std::string why_not_rdma;  // empty if it is RDMA, or if nobody wanted it
};

// An Opened before anything was said over it.
struct Connected : Opened {
    uint64_t token = 0;       // that the server gave
    bool can_resume = false;  // the server, and so can we
};

// How a client waits for a session while a server has no room for another one.
struct Queueing {
    TimePoint until = TimePoint::min();  // but not for less long than the handshake may take
    std::function<void(const wire::AdmissionAnswer & place)> on_wait;  // called for each change of the place
};

// "16 sessions are served, and this client is at place 2 of the queue": why a client has to wait.
std::string describe(const wire::AdmissionAnswer & place);

// Connects, shakes hands, refuses a peer of another version, and, if it `may_be_rdma`, changes to RDMA where possible.
// `token`: of the session that this connection is for, or 0. `queueing`: of a session that begins here; null: none does, or
// the server need not say when it has room. The time in the queue does not count against `deadline`.
Result<Connected> shake_hands(const Endpoint & endpoint, uint64_t token, bool may_be_rdma, TimePoint deadline,
                              const Queueing * queueing = nullptr);

// The worker's side: `first` is the header of the first command that the front door did not answer. If it is an offer
// of RDMA, it is answered, and the transport that comes of it returned; `first` is then used up. So it is if it begins
// a session in records, which only a client that `can_resume` does. A client that asks for ADMISSION is admitted.
struct Accepted {
    std::unique_ptr<Transport> transport;
    std::vector<std::byte> first;  // of the session's first command, what has been received
    bool in_records = false;
};
Result<Accepted> open_server(UniqueFd socket, ConstBytes first, bool can_resume);

// The answer to LINK: u64 1, u8 1.
inline constexpr std::array link_answer{std::byte{1}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0},
                                        std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}};

// Who comes with a token: the other end of open_link(), and who comes to resume a session or a link. The rest as in
// open_server().
struct Comer {
    std::unique_ptr<Transport> transport;
    std::optional<wire::ResumeRequest> resume;  // it resumes; the answer is still to be given
};
Result<Comer> open_for_token(UniqueFd socket, ConstBytes first, bool can_resume);

}  // namespace caravan::net
