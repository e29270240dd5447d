// The commands of one session, in the program's order: what must be queued before another command.
//
// A command is queued in these steps, under one lock: begin(); send_held() for each range of memory that it accesses; the
// command itself, through commands() or native(). A read or a push of a launch's result calls begin_read() instead of begin().
// undelivered() records every write of the server's memory.
#pragma once

#include <atomic>

#include "client/session/command_stream.h"
#include "client/session/idle_writes.h"
#include "client/session/undelivered_regions.h"
#include "client/session/weight_uploads.h"

namespace caravan::client {

class CommandQueue : public CommandStream {
public:
    using CommandStream::CommandStream;

    // Completes uploads of weights, unless the command is one that may overtake them, and sends a launch that was held for a
    // read.
    void begin(Lock & lock, bool may_overtake_uploads = false);
    // Leaves a held launch to the caller, which sends both together.
    void begin_read(Lock & lock);

    // Before long data and launches, without the lock: waits while the session switches to RDMA, until the time that was set.
    void await_upgrade();
    void await_upgrade_until(TimePoint until) { await_upgrade_until_ = until; }

    // Appends the held writes that a command on this range, or a launch, may observe.
    void send_held(const Range & range) { append(idle_writes_.take_overlapping(range)); }
    void send_held(const Footprint & launch) { append(idle_writes_.take_for_launch(launch)); }
    // Appends all held writes, and holds none any more (IdleWrites::stop()).
    void stop_holding() { append(idle_writes_.stop()); }

    IdleWrites & idle_writes() { return idle_writes_; }
    UndeliveredRegions & undelivered() { return undelivered_; }
    WeightUploads & uploads() { return uploads_; }

    // Queues a request and waits for its reply. Fails with the session's error, or with Errc::unavailable if the server
    // refuses the request. Takes the lock.
    template <class Reply, class... Request>
    Result<Reply> query(wire::Command command, const Request &... request);

private:
    void append(const std::vector<HeldWrite> & writes);

    std::atomic<TimePoint> await_upgrade_until_ = TimePoint::min();
    IdleWrites idle_writes_;
    UndeliveredRegions undelivered_;
    WeightUploads uploads_{*this};
};

template <class Reply, class... Request>
Result<Reply> CommandQueue::query(wire::Command command, const Request &... request) {
    Lock held = lock();
    begin(held);
    if (failure()) {
        return std::unexpected(*failure());
    }
    commands().post(command, request...);
    Reply reply{};
    await(held, stream().expect(mutable_bytes(&reply, sizeof reply), true));
    if (failure()) {
        return fail(failure()->code, "{}: {}", endpoint().text(), failure()->text);
    }
    if (auto refusal = stream().take_refusal()) {
        return fail(Errc::unavailable, "{}: {}", endpoint().text(), *refusal);
    }
    return reply;
}

}  // namespace caravan::client
