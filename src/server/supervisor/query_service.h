// Answers clients that query the free memory of a device, which a worker without a session reports. The other queries need no
// worker (FrontDoor).
#pragma once

#include <cstdint>
#include <set>

#include "server/supervisor/waiting_clients.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {

class QueryService {
public:
    QueryService(WorkerPool & workers, WaitingClients & clients) : workers_(workers), clients_(clients) {}

    // Forwards the query of a client that waits for memory, unless one for the same device is pending. Drops the client if the
    // device does not exist any more.
    void forward(WaitingClient & client);
    // Answers all clients that wait for the memory of this device.
    void answer(const ControlMessage & reply);
    // Pending queries will not be answered: forward() sends them again.
    void forget() { pending_.clear(); }

private:
    WorkerPool & workers_;
    WaitingClients & clients_;
    std::set<uint32_t> pending_;  // devices
};

}  // namespace caravan::server
