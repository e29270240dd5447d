// One rank's side of the exchange of data between the ranks of a group. Every pair of ranks shares a link, used in both
// directions. In one step a rank sends a message to some others and receives one from some, all at the same time; what
// arrives is handed on in pieces meanwhile. The rules that make every step end are those of docs/model/reduce.pml.
//
// Used by the session's thread only.
#pragma once

#include <algorithm>
#include <atomic>
#include <functional>
#include <memory>
#include <optional>
#include <span>
#include <vector>

#include "net/transport.h"
#include "server/links/memory_link.h"
#include "wire/native.h"

namespace caravan::server {

// What precedes the data of each message: a header, or nothing between stock ranks.
enum class Framing : uint8_t { headers, bare };

// Another rank.
struct Peer {
    net::Transport * link;
    size_t rank;
    uint64_t messages_sent = 0, messages_received = 0;
    std::vector<std::byte> window;  // received data: position modulo its size
    std::unique_ptr<SharedLink> shared{};  // of `link`, if that uses shared memory
};

// The messages between this rank and another one in one step.
struct Transfer {
    Peer * peer;
    std::optional<ConstBytes> data;    // to send
    std::optional<size_t> size;        // to receive, bytes
    std::byte * target = nullptr;      // where to. Null: to the peer's window
    wire::ReduceHeader header{};       // received
    size_t sent = 0, received = 0;     // bytes, with the header
};

class Exchange {
public:
    // Called with consecutive ranges of the received messages, bytes, that have arrived from all peers of the step; they
    // are in the windows until it returns.
    using Consumer = std::function<void(size_t begin, size_t end)>;

    // The phases of a step, in order, for the trace. No clock is read for it if there is no observer.
    enum class Phase : uint8_t { wait, transfer, add };  // until all peers have begun to send; then; in `consume`
    using Observer = std::function<void(Phase phase, TimePoint begin, TimePoint end)>;
    void observe(Observer observer) { observer_ = std::move(observer); }

    // Called at least every tunable::reduction_cancel_interval while a step waits, with the time since when the peers have
    // been silent. Its error ends the step.
    using Interrupt = std::function<Result<>(TimePoint since)>;
    void interrupt_by(Interrupt interrupt) { interrupt_ = std::move(interrupt); }

    // `patience`: how long a step may wait; each byte that moves extends it by the time that it takes at
    // tunable::min_reduction_rate. `leave_time`: limit of leave(). Bare messages are always valid.
    Exchange(milliseconds patience, milliseconds leave_time, Framing framing = Framing::headers)
        : patience_(patience),
          leave_time_(leave_time),
          header_size_(framing == Framing::headers ? sizeof(wire::ReduceHeader) : 0) {}

    // Runs a step. `is_valid`: for the headers. `consume` gets `size` bytes of each message; `overwrites`: and changes the
    // bytes of the sent messages at the same position. Fails if a link breaks or a peer sends what does
    // not fit. Returns early if `is_cancelled`.
    Result<> run(std::span<Transfer> transfers, bool is_valid, size_t size, bool overwrites, const Consumer & consume,
                 const std::atomic<bool> & is_cancelled);

    // Tells all peers that this rank takes no part in later steps. Completes the messages of `unfinished` first. Without
    // headers it breaks the links.
    void leave(std::span<Peer> peers, std::span<Transfer> unfinished);

private:
    // The waits of a step: when they began, later if bytes have moved since, and when the last bytes moved.
    struct Stall {
        TimePoint since{}, moved_at{};
        uint64_t moved = 0;  // bytes that `since` does not account for yet

        // For a wait that begins now.
        void update(TimePoint now);
    };

    Result<size_t> send(Transfer & transfer) const;
    Result<size_t> receive(Transfer & transfer, size_t done) const;
    Result<> check(const Transfer & transfer) const;
    Result<> wait(std::span<Transfer> transfers, Stall & stall, const std::atomic<bool> & is_cancelled) const;
    size_t to_send(const Transfer & transfer) const { return transfer.data ? header_size_ + transfer.data->size() : 0; }
    size_t to_receive(const Transfer & transfer) const { return transfer.size ? header_size_ + *transfer.size : 0; }
    size_t without_header(size_t bytes) const { return bytes - std::min(bytes, header_size_); }

    const milliseconds patience_, leave_time_;
    const size_t header_size_;  // bytes
    Observer observer_;
    Interrupt interrupt_;
    bool is_valid_ = true;
};

}  // namespace caravan::server
