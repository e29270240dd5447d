// Advice for a user whose server cannot be reached: one line without a full stop, or "". Pure functions.
#pragma once

#include <string>

#include "net/endpoint.h"

namespace caravan::net {

// The connection could not be established; `code` is the error of connect_socket().
std::string connect_advice(const Endpoint & endpoint, Errc code);

// The server stayed full until the client's time-out.
std::string full_advice();

// The server ends sessions without RDMA, and RDMA is not available.
std::string only_rdma_advice(const Endpoint & endpoint);

// The connection was established, but the handshake failed with `code`.
std::string handshake_advice(Errc code);

}  // namespace caravan::net
