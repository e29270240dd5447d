// Options of a connection to a server.
#pragma once

#include <memory>

#include "base/config.h"
#include "tunables/client.h"

namespace caravan::client {

class SessionHistory;

struct ConnectionOptions {
    seconds connect_timeout = caravan::connect_timeout();  // for connecting and the handshake together
    seconds reply_timeout = caravan::reply_timeout();  // a peer without progress for this long is lost; also for a free session
    milliseconds idle_before_probe = tunable::idle_before_probe;  // a launch after this long without traffic probes the server
    std::shared_ptr<SessionHistory> history = {};  // records sessions; may be null
};

}  // namespace caravan::client
