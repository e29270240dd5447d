// The worker's side of a new connection, after the supervisor's front door has replied to HELLO: admission, and the choice of
// transport.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <memory>
#include <optional>
#include <vector>

#include "net/transport.h"
#include "platform/unique_fd.h"
#include "wire/extension.h"

namespace caravan::net {

// The worker's side of a session's connection. `first` is the header of the first command that the front door did not
// handle, or the whole HELLO of a stock client with RDMA. Replies to that, to ADMISSION and to RDMA_OFFER, and consumes
// RECORDS, which only a client that `can_resume` sends.
struct Accepted {
    std::unique_ptr<Transport> transport;
    std::vector<std::byte> first;  // bytes already received of the session's first command
    bool in_records = false;
};
Result<Accepted> open_server(UniqueFd socket, ConstBytes first, bool can_resume);

// The reply to LINK: u64 1, u8 1.
inline constexpr std::array link_reply{std::byte{1}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0},
                                       std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}};

// The worker's side of a connection whose HELLO carries a token: a new link (see open_link()), or an attempt to resume a
// session or link. Replies to LINK if `expects_link` returns true, and fails otherwise; the caller replies to RESUME. Other
// parameters as for open_server().
struct TokenConnection {
    std::unique_ptr<Transport> transport;
    std::optional<wire::ResumeRequest> resume;  // absent: a new link
};
Result<TokenConnection> accept_with_token(UniqueFd socket, ConstBytes first, bool can_resume,
                                          const std::function<bool()> & expects_link);

}  // namespace caravan::net
