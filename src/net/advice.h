// What a user can do about a server that cannot be reached. Pure. One line, no full stop.
#pragma once

#include <string>

#include "net/endpoint.h"

namespace caravan::net {

// After a connection that was not made.
std::string connect_advice(const Endpoint & endpoint, Errc code);

// After a wait for a server whose sessions are all in use.
std::string full_advice();

// After a connection that was made and a handshake that failed.
std::string handshake_advice(Errc code);

}  // namespace caravan::net
