#include "server/supervisor/shared_memories.h"

#include <algorithm>
#include <cstring>
#include <utility>

#include "base/random.h"
#include "platform/shared_memory.h"
#include "platform/socket.h"
#include "tunables/links.h"
#include "wire/shared_memory.h"

namespace caravan::server {
namespace {

Result<platform::SharedMapping> map(const UniqueFd & memory) {
    return platform::SharedMapping::map(memory.get(), wire::shared_memory_size);
}

Result<UniqueFd> make(WorkerProcess & worker, ControlMessage & reply) {
    if (worker.memories_made >= tunable::max_shared_memories ||
        worker.shared_memories.size() >= tunable::max_unopened_memories) {
        return fail(Errc::unavailable, "the session has made shared memory {} times", worker.memories_made);
    }
    auto memory = platform::make_shared_memory(wire::shared_memory_size);
    const auto mapped = memory.and_then([](const UniqueFd & made) { return map(made); });
    auto copy = platform::duplicate(memory ? memory->get() : -1);
    if (!memory || !mapped || !copy) {
        return std::unexpected(!memory ? memory.error() : !mapped ? mapped.error() : copy.error());
    }
    const uint64_t secret[] = {random_token(), random_token()};
    static_assert(sizeof secret == wire::secret_size);
    std::memcpy(reply.secret, secret, sizeof secret);
    std::memcpy(mapped->bytes().data() + wire::at_secret, secret, sizeof secret);
    reply.number = static_cast<uint32_t>(copy->get());
    reply.count = static_cast<uint32_t>(platform::own_process());
    ++worker.memories_made;
    worker.shared_memories.push_back(std::move(*copy));
    return memory;
}

Result<UniqueFd> open(const ControlMessage & message) {
    auto memory = platform::open_shared_memory(static_cast<platform::ProcessId>(message.count),
                                               static_cast<Descriptor>(message.number), wire::shared_memory_size);
    const auto mapped = memory.and_then([](const UniqueFd & opened) { return map(opened); });
    if (!mapped) {
        return std::unexpected(mapped.error());
    }
    if (std::memcmp(mapped->bytes().data() + wire::at_secret, message.secret, wire::secret_size) != 0) {
        return fail(Errc::not_found, "the shared memory has another secret");
    }
    return memory;
}

}  // namespace

void serve_shared_memory(WorkerProcess & worker, const ControlMessage & message) {
    if (message.kind == ControlMessage::Kind::unshare) {
        std::erase_if(worker.shared_memories,
                      [&](const UniqueFd & memory) { return memory.get() == static_cast<int>(message.number); });
        return;
    }
    ControlMessage reply{.kind = ControlMessage::Kind::shared, .token = message.token};
    const auto memory = message.kind == ControlMessage::Kind::share ? make(worker, reply) : open(message);
    if (!memory) {
        reply.set_text(memory.error().text);
    }
    send_control(worker.control.get(), reply, memory ? memory->get() : -1);
}

}  // namespace caravan::server
