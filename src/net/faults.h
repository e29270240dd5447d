// Fault injection for tests: a build feature (-DCARAVAN_FAULTS=ON) that release builds do not have.
//
//   GGML_RPC_FAULT=KIND@MESSAGE[:N][,KIND@MESSAGE[:N]]...
//
//   drop@12        message 12 is lost
//   delay@12:500   message 12 is sent 500 ms late; the sending thread blocks
//   reset@12       the connection is reset instead of sending message 12
//   truncate@12:5  the connection is reset after 5 bytes of message 12
//   corrupt@12:5   the lowest bit of byte 5 of message 12 is flipped
//
// A message is the data that the network accepts in one call, on the connections of sessions and links. Messages are
// counted from 1 for the whole process. Each fault happens once.
#pragma once

#include <memory>

#include "net/transport.h"

namespace caravan::net {

#ifdef CARAVAN_FAULTS
inline constexpr bool injects_faults = true;
// Wraps `transport` if GGML_RPC_FAULT names faults, else returns it. Threads: as Transport.
std::unique_ptr<Transport> with_faults(std::unique_ptr<Transport> transport);
#else
inline constexpr bool injects_faults = false;
inline std::unique_ptr<Transport> with_faults(std::unique_ptr<Transport> transport) { return transport; }
#endif

}  // namespace caravan::net
