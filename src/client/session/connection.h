// One session with one server, or a connection for queries.
//
// Its parts have one concept each and share one CommandQueue: queries, buffers, data of tensors, launches, and copies from
// other servers.
//
// Threads: any. Ownership: shared by buffers, back-ends and events; the last of them closes the session.
// Failure: sticky and logged once. A failed connection sends nothing, its reads return absent data (Stream::Absent), and
// launch() returns GGML_STATUS_FAILED. It never recovers; RemoteServer opens a new connection for the next caller.
//
// Absent data: reads from a lost server return bytes with all bits set. launch() fails for a graph that reads a region which
// was last written with absent data, or with data that another server failed to send (undelivered_regions.h).
#pragma once

#include <memory>

#include "abi/ggml_abi.h"
#include "client/observe/session_recorder.h"
#include "client/session/buffer_table.h"
#include "client/session/command_queue.h"
#include "client/session/launcher.h"
#include "client/session/queries.h"
#include "client/session/reductions.h"
#include "client/session/server_transfers.h"
#include "client/session/session_history.h"
#include "client/session/tensor_data.h"
#include "net/endpoint.h"

namespace caravan::client {

class Connection : public std::enable_shared_from_this<Connection> {
public:
    enum class Purpose {
        queries,  // queries() except supports(); TCP
        session,  // all functions; uses RDMA where both peers have it, and logs the transport
        inquiry,  // the same over TCP, until carry_data()
    };
    // Connects and completes the handshake within the connect time-out. A full server may queue the client for up to the
    // reply time-out, which is logged. Fails with the error of net::open_client().
    static Result<std::shared_ptr<Connection>> open(const net::Endpoint & endpoint, Purpose purpose,
                                                    const ConnectionOptions & options = {});
    ~Connection();

    const net::Endpoint & endpoint() const { return queue_.endpoint(); }
    // The session is about to carry data. Logs the transport: programs hide what is logged while they only ask for the memory
    // that a model needs. An inquiry switches to RDMA in the background where both peers have it; the first long data waits
    // for that, but not long. Later calls do nothing. One thread at a time.
    void carry_data();
    bool failed();
    // Whether any session of this process has failed.
    static bool any_failed() { return CommandQueue::any_failed(); }
    seconds reply_timeout() const { return reply_timeout_; }
    // Whether the server uses the native dialect.
    bool is_native() const { return queue_.is_native(); }

    Queries & queries() { return queries_; }
    BufferTable & buffers() { return buffers_; }
    TensorData & data() { return data_; }
    ServerTransfers & transfers() { return transfers_; }
    Reductions & reductions() { return reductions_; }
    // See Launcher.
    ggml_status launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) {
        return launcher_.launch(device, graph, handle_of);
    }

    // The session is a member of a ServerGroup. Launches then request their results without waiting; await_result() waits for
    // it. `ranks`: the servers of the group, for messages.
    void join(std::string ranks);
    // Waits until the server has done all that is queued. Forgets which launches have failed.
    void forget_launch_failures();
    // Whether the session is lost, or a launch has failed that no later launch has reported.
    bool has_failed_launch();
    // The next launch fails for this reason.
    void fail_next_launch(std::string why);
    ggml_status await_result() { return launcher_.await_result(); }

    // Wait until all replies, or those up to the ticket, have arrived.
    void synchronize();
    void await(Stream::Ticket ticket);
    Stream::Ticket last_ticket();

    // The statistics of the session so far.
    SessionRecord record();

private:
    Connection(const net::Endpoint & endpoint, Purpose purpose, std::unique_ptr<net::Transport> transport, bool native,
               const ConnectionOptions & options);
    void start_recording();
    void finish_recording();
    SessionStats stats();

    bool is_for_queries_ = true;  // until carry_data()
    bool may_upgrade_ = false;
    std::string why_not_rdma_;
    const std::shared_ptr<SessionHistory> history_;  // may be null
    const uint64_t number_;                          // of the session in the history
    const seconds reply_timeout_;
    SessionRecorder recorder_;  // guarded by the queue's lock
    CommandQueue queue_;
    Queries queries_{queue_};
    BufferTable buffers_{queue_};
    TensorData data_{queue_, buffers_, recorder_};
    ServerTransfers transfers_{queue_};
    Reductions reductions_{queue_};
    Launcher launcher_;
};

}  // namespace caravan::client
