#include "server/ipc/comm_port.h"

#include <utility>

#include "tunables/session.h"

namespace caravan::server {

Result<> CommPort::ask(ControlMessage::Step step, uint32_t port) {
    ControlMessage question{.kind = ControlMessage::Kind::comm, .step = step, .port = port};
    {
        std::lock_guard lock(mutex_);
        question.number = ++asked_;
        reply_.reset();
    }
    return send_(question) ? Result<>() : fail(Errc::unavailable, "the server's main process does not take messages");
}

// The reply to the last question, or none at the deadline. Fails if that was refused.
Result<std::optional<CommPort::Reply>> CommPort::await(TimePoint deadline) {
    std::unique_lock lock(mutex_);
    if (!changed_.wait_until(lock, deadline, [&] { return reply_.has_value(); })) {
        return std::nullopt;
    }
    std::optional<Reply> reply = std::exchange(reply_, std::nullopt);
    if (reply->message.count == 0) {
        return fail(Errc::unavailable, "{}", reply->message.text);
    }
    return reply;
}

Result<> CommPort::reserve() {
    if (auto asked = ask(ControlMessage::Step::reserve, 0); !asked) {
        return asked;
    }
    const auto reply = await(Clock::now() + tunable::supervisor_reply_timeout);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    return *reply ? Result<>() : fail(Errc::unavailable, "the server's main process does not answer");
}

void CommPort::release() { (void)ask(ControlMessage::Step::release, 0); }

Result<UniqueFd> CommPort::accept(uint32_t port, TimePoint deadline) {
    if (!is_accepting_) {
        if (auto asked = ask(ControlMessage::Step::accept, port); !asked) {
            return std::unexpected(asked.error());
        }
        is_accepting_ = true;
    }
    auto reply = await(deadline);
    if (!reply) {
        is_accepting_ = false;
        return std::unexpected(reply.error());
    }
    if (!*reply) {
        return UniqueFd();
    }
    is_accepting_ = false;
    return std::move((*reply)->connection);
}

void CommPort::stop_accepting() {
    is_accepting_ = false;
    (void)ask(ControlMessage::Step::stop, 0);
}

void CommPort::on_reply(const ControlMessage & reply, UniqueFd connection) {
    std::lock_guard lock(mutex_);
    if (reply.number == asked_) {
        reply_ = Reply{reply, std::move(connection)};
        changed_.notify_all();
    }
}

}  // namespace caravan::server
