// A byte stream that survives the loss of its connection: it keeps unacknowledged bytes and retransmits them over the next
// connection (wire/extension.h defines the records). Its users see a Transport that sometimes stalls.
//
// The active end (the client; for a link, the sending server) reconnects: in wait(), or in a thread of its own while no
// thread waits. It switches to RDMA in the background: on request, and after it lost RDMA. The passive end receives new
// connections through take_over(), and gives up after `grace`. An orderly close of the connection closes the passive end at
// once, because the peer's process has closed it or exited.
//
// Threads: as Transport; take_over() from any. Memory: up to wire::resume_window of unacknowledged bytes, and as much
// received ahead of the application to find acknowledgements.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <stop_token>
#include <string>
#include <thread>
#include <vector>

#include "net/resume/pace.h"
#include "net/resume/reconnect_policy.h"
#include "net/resume/record_reader.h"
#include "net/resume/record_writer.h"
#include "net/resume/upgrade_policy.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net {

class ResumableTransport final : public Transport {
public:
    struct Reconnected {
        std::unique_ptr<Transport> transport;
        uint64_t received = 0;  // position up to which the peer has received the stream
    };
    struct Attempt {
        wire::ResumeRequest request;
        // Nothing was received, and everything sent is still in the replay buffer: if the peer does not know the stream, it
        // may be restarted.
        bool may_restart = false;
        TimePoint deadline{};
        std::unique_ptr<Transport> over;  // the connection to use; null: open one
    };
    // Opens a new connection and sends the request. Blocks until the deadline at most. Errc::closed and Errc::unavailable
    // are permanent: the session no longer exists.
    using Reconnect = std::function<Result<Reconnected>(Attempt attempt)>;
    // Opens a connection over RDMA, on which nothing has been sent. Blocks until the deadline at most. `stop`: this
    // end closes and waits for the return.
    using OpenRdma = std::function<Result<std::unique_ptr<Transport>>(TimePoint deadline, const std::stop_token & stop)>;

    struct Options {
        std::string name;            // of the peer, for the log
        milliseconds grace{60'000};  // how long to wait for a new connection
        Reconnect reconnect;         // empty: this is the passive end
        OpenRdma open_rdma;          // active end: to return to RDMA after it was lost; empty: never
        OpenRdma open_first_rdma;    // active end: for begin_upgrade(). Its error has the reason
        std::function<void()> while_connected;  // called at Pace::idle_check by the active end's thread; may block
        Pace pace{};
    };
    ResumableTransport(std::unique_ptr<Transport> transport, Options options);
    ~ResumableTransport() override;

    Result<size_t> send(std::span<const ConstBytes> parts) override;
    void lend(ConstBytes bytes) override;
    void end_loan() override;
    Result<size_t> receive(std::span<const MutableBytes> parts) override;
    // While disconnected, it may return true at the deadline: callers that measure the peer's silence must start over.
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override;
    void wake() override;
    bool is_connected() const override;
    void begin_upgrade(std::function<void(const Error * why_not)> done) override;
    void await_upgrade(TimePoint deadline) override;
    void when_lost(std::function<void(const Error &)> done) override;
    // Permanent. The peer may try to reconnect until its time is over.
    void break_off() override;
    TransportKind kind() const override;
    uint32_t queue_pairs() const override;
    uint32_t replacements() const override;

    // Passive end: continues over a connection that the peer opened with `request`, and replies to it. Errc::protocol: stale
    // attempt or invalid position.
    Result<> take_over(std::unique_ptr<Transport> transport, wire::ResumeRequest request);
    // Passive end: tells whether a lifeline currently reports the exit of the peer's process through peer_ended(). If so, even
    // an orderly close of the connection does not mean that the peer has closed. After the first such call a reset is blamed
    // on the network and the full `grace` applies.
    void watch_peer(bool is_watched);
    void peer_ended();

private:
    using Lock = std::unique_lock<std::mutex>;

    bool pump_out();
    void on_send_failed(const Error & error);
    void pump_in(const Error * known = nullptr);
    void on_received(const std::optional<RecordReader::Failure> & failure, const Error * known);
    void acknowledge_if_due();
    TimePoint probe_time() const;
    void probe();
    void drop_connection(bool is_broken = true);
    void on_connection_lost(const std::shared_ptr<Transport> & transport, Error error);
    void close_with(Error error);
    Result<> continue_over(std::unique_ptr<Transport> transport, uint64_t received);
    void wait_reconnected(Lock & lock, TimePoint deadline);
    void try_reconnect(Lock & lock, TimePoint deadline);
    void resume(Lock & lock, std::unique_ptr<Transport> over);
    void try_upgrade(Lock & lock);
    bool is_upgrade_due() const;
    void end_first_upgrade(Lock & lock, const Error * why_not);
    void run_keeper();

    const Options options_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::shared_ptr<Transport> inner_;  // null: disconnected. Shared with a thread that waits in it
    TransportKind kind_;
    uint32_t queue_pairs_;
    uint32_t replacements_ = 0;
    std::optional<Error> error_;         // permanent
    std::function<void(const Error &)> when_lost_;

    RecordWriter writer_;
    RecordReader reader_;

    // Reconnecting.
    ReconnectPolicy policy_;
    UpgradePolicy upgrade_;
    std::function<void(const Error *)> on_first_upgrade_;  // empty unless begin_upgrade() is at work
    TimePoint lost_at_{};
    std::string loss_reason_, attempt_error_;  // of the present loss, and of the last attempt to reconnect
    bool is_reconnecting_ = false;
    bool woken_ = false;
    uint32_t last_attempt_ = 0;  // number of the last attempt, made or accepted

    int waiting_ = 0;
    bool keeper_polls_ = false;  // the keeper is in inner_->wait(), which allows one thread
    bool stopping_ = false;
    std::stop_source stop_upgrade_;
    std::thread keeper_;  // active end only
};

}  // namespace caravan::net
