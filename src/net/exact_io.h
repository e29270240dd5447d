// Whole messages over a non-blocking socket, before there is a Transport. Blocking, with a deadline.
#pragma once

#include "base/bytes.h"
#include "base/clock.h"
#include "base/error.h"

namespace caravan::net {

Result<> send_exact(int socket, ConstBytes bytes, TimePoint deadline);
Result<> receive_exact(int socket, MutableBytes bytes, TimePoint deadline);

}  // namespace caravan::net
