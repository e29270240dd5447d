// Connections that fail as told, for tests: a build feature (-DCARAVAN_FAULTS=ON), off in what users get.
//
//   GGML_RPC_FAULT=KIND@MESSAGE[:N][,KIND@MESSAGE[:N]]...
//
//   drop@12        message 12 is lost
//   delay@12:500   message 12 leaves 500 ms late (and the thread that sends it waits)
//   reset@12       the connection is reset in the place of message 12
//   truncate@12:5  the same after 5 bytes of it
//   corrupt@12:5   the lowest bit of byte 5 of message 12 is turned over
//
// A message is what the network takes in one call, on the connections of sessions and links. They are counted from 1
// for the whole process; a fault happens once.
#pragma once

#include <memory>

#include "net/transport.h"

namespace caravan::net {

#ifdef CARAVAN_FAULTS
inline constexpr bool injects_faults = true;
// `transport`, or one that fails as GGML_RPC_FAULT says. Threads: as Transport.
std::unique_ptr<Transport> with_faults(std::unique_ptr<Transport> transport);
#else
inline constexpr bool injects_faults = false;
inline std::unique_ptr<Transport> with_faults(std::unique_ptr<Transport> transport) { return transport; }
#endif

}  // namespace caravan::net
