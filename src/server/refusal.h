// What a server sends instead of a session to a client that speaks the native dialect. Layouts only.
#pragma once

#include <cstddef>
#include <string_view>
#include <vector>

namespace caravan::server {

// An answer of the kind "ended" with `reason`. `in_records`: the client has sent RECORDS, so this is the first record.
std::vector<std::byte> refusal(std::string_view reason, bool in_records);

}  // namespace caravan::server
