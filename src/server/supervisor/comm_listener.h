// The supervisor's side of a stock client's comm: lets one session at a time have one, and listens for rank 1 while that
// session is rank 0 and waits. It passes on one connection for each request; the others wait in the kernel's queue, and are
// reset when it stops. For the supervisor's thread only.
#pragma once

#include <vector>

#include "net/socket.h"
#include "server/supervisor/server_options.h"
#include "server/supervisor/worker_pool.h"

namespace caravan::server {

class CommListener {
public:
    // Both must outlive this.
    CommListener(const ServerOptions & options, WorkerPool & workers);

    // Sets the port of a server that listens on `server_port`. An error: it cannot be used.
    Result<> set_port(uint16_t server_port);

    // Those to be polled now.
    const std::vector<net::Listener> & awaited() const { return question_ == 0 ? none_ : listeners_; }
    // Accepts at most one connection from each.
    void accept();
    // Stops if the session has ended.
    void update();

private:
    void reply(WorkerProcess & worker, const ControlMessage & question);
    static void send_reply(const WorkerProcess & worker, ControlMessage::Step step, uint32_t number, const Result<> & done);
    Result<> reserve(const WorkerProcess & worker);
    Result<> listen(const WorkerProcess & worker, const ControlMessage & question);
    WorkerProcess * holder();

    const ServerOptions & options_;
    WorkerPool & workers_;
    uint16_t port_ = 0;
    platform::ProcessId holder_ = -1;  // the worker whose session has the comm; -1: none
    uint32_t question_ = 0;            // number of its request for a connection; 0: it awaits none
    std::vector<net::Listener> listeners_;
    const std::vector<net::Listener> none_;
};

}  // namespace caravan::server
