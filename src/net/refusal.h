// The message by which a server refuses a session to a client that speaks the native dialect. No I/O.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace caravan::net {

// A reply of kind ReplyKind::ended that carries `reason`, made printable. `in_records`: the client has sent RECORDS, so
// the reply is wrapped as the first record.
std::vector<std::byte> refusal(std::string_view reason, bool in_records);

}  // namespace caravan::net
