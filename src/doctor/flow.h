// How many bytes per second a server takes and gives, in messages of one size.
#pragma once

#include "doctor/conversation.h"

namespace caravan::doctor {

// Sends messages of `size` bytes (no more than the region has) for about `time`, at least one. The time counts until the
// server has taken all of them. Bytes per second, without the messages' headers.
Result<double> rate_to_server(Conversation & peer, const Region & region, size_t size, milliseconds time);

// The same for reads, several of which are under way at a time.
Result<double> rate_from_server(Conversation & peer, const Region & region, size_t size, milliseconds time);

}  // namespace caravan::doctor
