// Measures the bandwidth to and from a server with messages of one size. An error if the connection broke meanwhile.
#pragma once

#include "doctor/conversation.h"

namespace caravan::doctor {

// Sends messages of `size` bytes, which must fit into the region, for about `time`, at least one, and waits until the server
// has received all of them. Returns bytes per second of payload.
Result<double> rate_to_server(Conversation & peer, const Region & region, size_t size, milliseconds time);

// The same for reads, several of which are in flight at a time.
Result<double> rate_from_server(Conversation & peer, const Region & region, size_t size, milliseconds time);

}  // namespace caravan::doctor
