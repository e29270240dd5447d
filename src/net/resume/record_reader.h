// The incoming half of a resumable stream: parses the records (wire/extension.h) and checks them. Never blocks. One thread
// at a time.
//
// Memory: a staging buffer, and up to wire::resume_window of bytes received ahead of the application.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <vector>

#include "base/error.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net {

class RecordReader {
public:
    RecordReader();

    uint64_t consumed() const { return consumed_; }  // total bytes that receive() returned
    // The highest position of the opposite direction that the peer has acknowledged.
    uint64_t acknowledged() const { return acknowledged_; }

    struct Failure {
        enum class Kind {
            connection,  // the connection failed
            corrupt,     // a record's checksum is wrong: the connection is to be replaced
            protocol,    // the peer violated the protocol: the stream ends
        };
        Kind kind;
        Error error;
    };
    struct Received {
        size_t size = 0;
        std::optional<Failure> failure;  // after these bytes
    };
    // Fills the parts with stream data. `transport` is null while disconnected. `sent` is the position up to which the
    // opposite direction was sent: the limit of the peer's acknowledgements.
    Received receive(Transport * transport, std::span<const MutableBytes> parts, uint64_t sent);
    // The same from bytes received ahead only.
    size_t receive_stashed(std::span<const MutableBytes> parts);
    // Receives everything available, to process acknowledgements, and keeps the stream data for receive().
    std::optional<Failure> receive_ahead(Transport * transport, uint64_t sent);
    // True if receive() has data without the connection.
    bool has_data() const;

    // Forgets what the connection has delivered and was not parsed.
    void on_lost();
    // The peer will retransmit what was received and not consumed.
    void drop_stash();
    // Continues on a new connection, at consumed().
    void resume() { received_ = consumed_; }

private:
    bool has_record() const;
    std::optional<Failure> next_record(uint64_t sent);
    Result<size_t> fill(Transport & transport);
    Result<size_t> receive_directly(Transport & transport, std::span<const MutableBytes> parts, size_t offset);
    void count_received(uint64_t size);
    size_t staged_size() const { return staging_end_ - staging_begin_; }
    ConstBytes staged() const { return ConstBytes(staging_).subspan(staging_begin_, staged_size()); }

    uint64_t consumed_ = 0, acknowledged_ = 0;
    uint64_t received_ = 0;           // position up to which the stream was received
    uint64_t record_left_ = 0;        // bytes still missing of the current record
    std::vector<std::byte> staging_;  // received, not parsed
    size_t staging_begin_ = 0, staging_end_ = 0;
    std::vector<std::byte> stash_;  // stream data received ahead
    size_t stash_begin_ = 0;
};

}  // namespace caravan::net
