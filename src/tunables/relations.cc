// Relations between constants of several modules. Those within a module are checked in its header.
#include "tunables/net.h"
#include "tunables/session.h"
#include "tunables/supervisor.h"

namespace caravan::tunable {

static_assert(half_open_patience < handshake_timeout);
static_assert(first_data_timeout < handshake_timeout);
static_assert(session_farewell < worker_exit_timeout);

}  // namespace caravan::tunable
