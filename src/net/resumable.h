// A stream of bytes that outlives its connections: what was sent and not acknowledged is kept, and sent again over the
// next connection (wire/extension.h has the records). To those who use it, it is a Transport that is sometimes slow.
//
// The active end (the client; of a link, the server that sends) makes new connections: in wait, or, if nobody waits, in
// a thread of its own. The passive end is given them by take_over, and counts its peer as gone when `grace` is over.
// An orderly end of the connection ends the passive end at once: the peer's process has closed it, or ended.
//
// Threads: as Transport says, and take_over from any. Memory: what is not acknowledged, and what had to be received to
// find an acknowledgement, wire::resume_window each at most.
#pragma once

#include <condition_variable>
#include <functional>
#include <memory>
#include <mutex>
#include <optional>
#include <string>
#include <thread>
#include <vector>

#include "net/replay_buffer.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net {

class ResumableTransport final : public Transport {
public:
    struct Reopened {
        std::unique_ptr<Transport> transport;
        uint64_t received = 0;  // by the peer
    };
    struct Attempt {
        wire::ResumeRequest request;
        // Nothing was received yet, and all that was sent is still here: should the peer know nothing of the stream, it
        // may have it from the beginning.
        bool may_begin_anew = false;
        TimePoint deadline{};
    };
    // Connects anew and tells the peer how much was received. Blocks until the deadline at most. Errc::closed,
    // Errc::unavailable: there is no session any more, and no use in trying again.
    using Reopen = std::function<Result<Reopened>(const Attempt & attempt)>;

    struct Options {
        std::string name;  // of the peer, for the log
        seconds grace{60};
        Reopen reopen;     // none: this is the passive end
        std::function<void()> tend;  // called by the active end's thread, now and then while there is a connection
    };
    ResumableTransport(std::unique_ptr<Transport> transport, Options options);
    ~ResumableTransport() override;

    Result<size_t> send(std::span<const ConstBytes> parts) override;
    void lend(ConstBytes bytes) override;
    void end_loan() override;
    Result<size_t> receive(std::span<const MutableBytes> parts) override;
    // While there is no connection, it may return true at the deadline: whoever counts the peer's silence begins anew.
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override;
    void wake() override;
    bool is_connected() const override;
    void when_lost(std::function<void(const Error &)> done) override;
    std::string_view kind() const override;

    // The passive end's: the peer has come back, and says how much it received. It is answered.
    Result<> take_over(std::unique_ptr<Transport> transport, wire::ResumeRequest request);
    // The passive end's: is the end of the peer's process told by other means just now, with peer_ended()? Then an end of
    // the connection, however orderly, is not the peer's. Once it was, a reset is the network's doing, and is worth all of
    // `grace`.
    void watch_peer(bool is_watched);
    void peer_ended();

private:
    using Lock = std::unique_lock<std::mutex>;

    bool is_over() const { return over_.has_value(); }
    bool pump_out(uint64_t end);
    void pump_in(const Error * known = nullptr);
    bool fill_staging(const Error * known = nullptr);
    bool has_record() const;
    bool next_record();
    void arrive(uint64_t size);
    void begin_record(uint64_t length, std::span<const ConstBytes> data);
    void acknowledge(uint64_t position);
    void acknowledge_much();
    TimePoint probe_time() const;
    void probe();
    uint64_t room() const;
    bool has_unsent() const { return !control_.empty() || on_wire_ < replay_.end(); }
    bool may_receive() const;
    void drop_connection();
    void broke(const std::shared_ptr<Transport> & transport, Error error);
    void end(Error error);
    Result<> begin_again(std::unique_ptr<Transport> transport, uint64_t received);
    void wait_broken(Lock & lock, TimePoint deadline);
    void reopen(Lock & lock, TimePoint deadline);
    void keep();

    const Options options_;
    mutable std::mutex mutex_;
    std::condition_variable changed_;
    std::shared_ptr<Transport> inner_;  // null: the connection is broken. Shared with a thread that waits in it
    std::string kind_;
    std::optional<Error> over_;         // for good
    std::function<void(const Error &)> when_lost_;

    // Out.
    ReplayBuffer replay_;
    uint64_t on_wire_ = 0;              // position up to which the connection has taken the stream
    std::vector<std::byte> control_;    // headers and answers that go out before anything else
    uint64_t record_left_ = 0;          // bytes that the last header still promises
    TimePoint last_sent_{};
    bool probed_ = true;                // since then

    // In.
    uint64_t taken_ = 0;                // bytes given out by receive
    uint64_t told_ = 0;                 // of these, what the peer was told of
    std::vector<std::byte> staging_;    // received, not looked at
    size_t staging_begin_ = 0, staging_end_ = 0;
    uint64_t incoming_left_ = 0;        // bytes of the record that is arriving
    uint64_t arrived_ = 0;              // position up to which the stream has arrived, taken or not
    std::vector<std::byte> stash_;      // received while only acknowledgements were wanted
    size_t stash_begin_ = 0;

    // While it is broken.
    TimePoint broken_since_{}, made_again_{}, give_up_{}, next_try_{};
    uint64_t progress_ = 0;  // bytes, in both directions, when it broke
    milliseconds pause_{0};
    std::string reason_;
    bool reopening_ = false;
    bool woken_ = false;
    bool peer_is_watched_ = false, peer_was_watched_ = false, peer_has_ended_ = false;
    uint32_t attempt_ = 0;  // the last one, made or taken

    int waiting_ = 0;
    bool looking_ = false;  // the keeper waits in inner_, for no time at all: two may not
    bool stopping_ = false;
    std::thread keeper_;  // the active end's
};

}  // namespace caravan::net
