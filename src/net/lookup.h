// Resolves a host name within a deadline. The system's resolver has none: with a name server that does not reply it takes
// half a minute or more.
#pragma once

#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "net/endpoint.h"
#include "tunables/net.h"

namespace caravan::net {

using Lookup = std::function<Result<std::vector<Endpoint>>(const Endpoint & endpoint)>;

// As addresses_of(). Each name is looked up in a thread of its own, which is abandoned at the deadline (Errc::timed_out).
// While `max_lookups` threads are running, further names fail at once (Errc::timed_out). Threads: any.
inline constexpr int max_lookups = tunable::max_lookups;
Result<std::vector<Endpoint>> addresses_within(const Endpoint & endpoint, TimePoint deadline, const Lookup & lookup);

}  // namespace caravan::net
