// The addresses of a host, found within a time. The system's resolver knows no deadline: with a name server that does not
// answer it takes half a minute and more.
#pragma once

#include <functional>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "net/endpoint.h"

namespace caravan::net {

using Lookup = std::function<Result<std::vector<Endpoint>>(const Endpoint & endpoint)>;

// As addresses_of(). A name is looked up by a thread of its own, which is left behind if it takes too long
// (Errc::timed_out); while `max_lookups` of them are left, no further name is looked up. Threads: any.
inline constexpr int max_lookups = 4;
Result<std::vector<Endpoint>> addresses_within(const Endpoint & endpoint, TimePoint deadline, const Lookup & lookup);

}  // namespace caravan::net
