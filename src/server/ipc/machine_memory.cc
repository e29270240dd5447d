#include "server/ipc/machine_memory.h"

#include <algorithm>

#include "base/clock.h"
#include "base/size_text.h"
#include "tunables/session.h"

namespace caravan::server {

Result<MachineMemory::Reply> MachineMemory::ask(uint64_t bytes) {
    std::unique_lock lock(mutex_);
    const ControlMessage question = message(++asked_, bytes);
    lock.unlock();
    if (!send_(question)) {
        return fail(Errc::closed, "the supervisor has ended");
    }
    lock.lock();
    if (!changed_.wait_for(lock, tunable::supervisor_reply_timeout, [&] { return answered_ == asked_; })) {
        return fail(Errc::timed_out, "the supervisor does not answer");
    }
    return reply_;
}

Result<> MachineMemory::claim(uint64_t bytes) {
    const auto reply = ask(bytes);
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (!reply->is_granted) {
        return fail(Errc::no_memory, "{} of the machine's memory in all, of which {} are left beside what is used and what "
                    "other sessions were promised; end a session, or limit them with --max-memory",
                    size_text(bytes), size_text(reply->free));
    }
    bytes_ = bytes;
    return {};
}

void MachineMemory::release(uint64_t bytes) {
    bytes_ = bytes;
    send_(message(0, bytes));
}

void MachineMemory::set_other_memory(uint64_t bytes) {
    other_memory_ = bytes;
    const auto [least, most] = std::minmax(other_memory_, reported_other_memory_);
    if (most - least >= tunable::min_reported_change) {
        send_(message(0, bytes_));
    }
}

ControlMessage MachineMemory::message(uint32_t number, uint64_t bytes) {
    reported_other_memory_ = other_memory_;
    return {.kind = ControlMessage::Kind::claim, .number = number, .memory_free = other_memory_, .memory_total = bytes};
}

uint64_t MachineMemory::free(uint64_t bytes) { return ask(bytes).value_or(Reply()).free; }

void MachineMemory::on_reply(const ControlMessage & reply) {
    std::lock_guard lock(mutex_);
    if (reply.number != asked_) {
        return;  // reply to a claim that has timed out
    }
    answered_ = reply.number;
    reply_ = {reply.count != 0, reply.memory_free};
    changed_.notify_all();
}

}  // namespace caravan::server
