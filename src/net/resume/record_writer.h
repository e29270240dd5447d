// The outgoing half of a resumable stream: cuts it into records (wire/extension.h) and keeps them until the peer
// acknowledges them. Never blocks. One thread at a time.
//
// `consumed` is always the position of the opposite direction up to which the application has consumed it: each record
// acknowledges it.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/clock.h"
#include "base/error.h"
#include "net/resume/replay_buffer.h"
#include "net/transport.h"
#include "tunables/resume.h"
#include "wire/extension.h"

namespace caravan::net {

class RecordWriter {
public:
    // `probe_after`: how long the last record may stay unacknowledged before a probe.
    explicit RecordWriter(milliseconds probe_after = tunable::unacknowledged_probe_after) : probe_after_(probe_after) {}

    // Bytes that the stream may grow by before the peer acknowledges more.
    uint64_t window_left() const { return wire::resume_window - (replay_.end() - replay_.begin()); }
    // True if bytes wait to be sent: after a full connection, or after a new one.
    bool has_unsent() const { return !control_.empty() || sent_ < replay_.end(); }
    // True in the middle of a record whose window is already granted.
    bool is_in_record() const { return record_left_ > 0; }
    uint64_t sent() const { return sent_; }                    // position up to which the stream was sent
    uint64_t acknowledged() const { return replay_.begin(); }  // position up to which the peer has acknowledged it
    uint64_t unsent_size() const { return replay_.end() - sent_; }

    void lend(ConstBytes bytes) { replay_.lend(bytes); }
    void end_loan() { replay_.end_loan(); }

    // True if acknowledgements should be received before begin_record(parts), because the window is smaller than the record.
    bool needs_acknowledgement(std::span<const ConstBytes> parts) const;
    // Starts a record for the first bytes of `parts`, unless one is in progress. False: the window is full.
    bool begin_record(std::span<const ConstBytes> parts, uint64_t consumed);
    // Sends what fits of the current record from the front of `parts`, in order. All earlier bytes must have been sent.
    struct Written {
        size_t size = 0;             // bytes of `parts` that were sent
        std::optional<Error> error;  // of the connection
    };
    Written write(Transport & transport, std::span<const ConstBytes> parts, TimePoint now, uint64_t consumed);
    // Sends unsent bytes. True: all of them.
    Result<bool> flush(Transport & transport, uint64_t consumed) { return flush(transport, replay_.end(), consumed); }

    // Queue a standalone acknowledgement, for flush(), and return true: if many bytes have been consumed since the last
    // one, or if it is time for a probe.
    bool acknowledge_if_due(uint64_t consumed);
    bool probe_if_due(TimePoint now, uint64_t consumed);
    // When a probe is due. The checksum covers a record's position, so a record reveals the loss of the one before it. After
    // the last record an empty one serves that purpose.
    TimePoint probe_time() const;

    // Queues bytes that precede the records on a new connection.
    void queue(ConstBytes bytes);
    // The peer acknowledged the stream up to `position`, at most sent().
    void on_acknowledged(uint64_t position);
    // Forgets the state of the connection.
    void on_lost();
    // Continues on a new connection at `position`, where the peer has received everything before. False: the position is
    // invalid.
    bool resume(uint64_t position, uint64_t consumed);

private:
    Result<bool> flush(Transport & transport, uint64_t end, uint64_t consumed);
    void queue_header(uint64_t length, std::span<const ConstBytes> data, uint64_t consumed);

    const milliseconds probe_after_;
    ReplayBuffer replay_;
    uint64_t sent_ = 0;
    std::vector<std::byte> control_;  // headers and replies, sent before stream data
    uint64_t record_left_ = 0;        // bytes still to send of the current record
    uint64_t last_acknowledgement_ = 0; // position of the opposite direction last acknowledged to the peer
    TimePoint last_write_{};
    bool has_probed_ = true;  // since last_write_
};

}  // namespace caravan::net
