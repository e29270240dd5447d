#include "server/supervisor/query_service.h"

#include "base/log.h"

namespace caravan::server {

void QueryService::forward(WaitingClient & client) {
    const uint32_t device = client.client.memory_device();
    if (device >= workers_.devices().size()) {
        log_warning("dropping {}: it asked about device {}, which is not there any more", client.client.peer(), device);
        clients_.drop(client);
        return;
    }
    if (!pending_.contains(device) && workers_.query_memory(device)) {
        pending_.insert(device);
    }
}

void QueryService::answer(const ControlMessage & reply) {
    pending_.erase(reply.number);
    for (WaitingClient & client : clients_.all()) {
        if (client.wants != FrontDoor::Wants::memory || client.closing || client.client.memory_device() != reply.number) {
            continue;
        }
        client.wants = FrontDoor::Wants::more;
        if (!client.client.answer_memory(reply.memory_free, reply.memory_total)) {
            clients_.drop(client);
        }
    }
}

}  // namespace caravan::server
