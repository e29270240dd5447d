#include "server/worker/shared_memory_requests.h"

#include <algorithm>

#include "tunables/links.h"

namespace caravan::server {

Result<ReceivedControl> SharedMemoryRequests::ask(ControlMessage message) {
    std::unique_lock lock(mutex_);
    message.token = ++asked_;
    reply_.reset();
    if (!send_(message)) {
        return fail(Errc::unavailable, "the server's main process takes no request now");
    }
    if (!changed_.wait_for(lock, tunable::memory_wait, [&] { return reply_.has_value(); })) {
        return fail(Errc::timed_out, "the server's main process did not answer in time");
    }
    ReceivedControl reply = std::move(*reply_);
    reply_.reset();
    if (!reply.attached) {
        return fail(Errc::unavailable, "{}", reply.message.text);
    }
    return reply;
}

void SharedMemoryRequests::on_reply(ReceivedControl reply) {
    const std::lock_guard lock(mutex_);
    if (reply.message.token == asked_) {  // otherwise it is late
        reply_ = std::move(reply);
        changed_.notify_all();
    }
}

Result<SharedMemoryRequests::Made> SharedMemoryRequests::make() {
    auto reply = ask({.kind = ControlMessage::Kind::share});
    if (!reply) {
        return std::unexpected(reply.error());
    }
    Made made{.memory = std::move(reply->attached)};
    made.place.process = reply->message.count;
    made.place.descriptor = reply->message.number;
    std::ranges::copy(reply->message.secret, made.place.secret);
    return made;
}

Result<UniqueFd> SharedMemoryRequests::open(const wire::MemoryPlace & place) {
    ControlMessage message{.kind = ControlMessage::Kind::open_shared, .number = place.descriptor, .count = place.process};
    std::ranges::copy(place.secret, message.secret);
    return ask(message).transform([](ReceivedControl reply) { return std::move(reply.attached); });
}

void SharedMemoryRequests::release(const wire::MemoryPlace & place) {
    send_({.kind = ControlMessage::Kind::unshare, .number = place.descriptor});
}

}  // namespace caravan::server
