// Receives the replies of a stream, in the order in which they were expected, into the memory given for them.
//
// A native server also sends texts: the refusal of a request instead of its reply and, before any reply, a failed launch or
// the end of the session. Tensor data that was computed by a failed launch, or may have been, is replaced by absent bytes.
//
// Never blocks. Its errors are those of Receive, or Errc::protocol; the caller closes it after an error. Threads: guarded by
// the stream's lock.
#pragma once

#include <cstdint>
#include <deque>
#include <functional>
#include <optional>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "base/bytes.h"
#include "base/error.h"

namespace caravan::client {

class ReplyReader {
public:
    // Receives into the parts, in order. Returns the number of bytes, 0 if none are available.
    using Receive = std::function<Result<size_t>(std::span<const MutableBytes>)>;

    // The value of each byte of a reply that does not arrive. `nan` is for tensors: it is NaN in every floating-point type,
    // so results computed from it are NaN too.
    enum class Absent : uint8_t { zeroes = 0x00, nan = 0xff };

    struct PendingReply {
        MutableBytes dest;  // must live until the reply is complete
        size_t size = 0;    // of dest, also before dest is known
        bool may_be_refused = false;
        bool is_data = false;  // of a tensor
        Absent absent = Absent::zeroes;
        std::vector<std::byte> own = {};  // dest of a discarded reply
    };

    explicit ReplyReader(Receive receive) : receive_(std::move(receive)) {}

    // Replies are numbered from 1.
    uint64_t expected() const { return expected_; }
    uint64_t completed() const { return completed_; }
    void expect(PendingReply reply);
    // Expects data whose destination is set later. One at a time, and nothing else may be expected before it is set.
    void expect_deferred(size_t size);
    uint64_t deferred() const { return deferred_; }  // its number; 0: none
    // False if the reply is absent already, because the reader was closed.
    bool set_destination(MutableBytes dest, Absent absent);
    // Receives the deferred reply into memory of its own. False if there is none, or it is absent already.
    bool discard();

    bool is_idle() const { return pending_.empty(); }
    // Whether bytes that arrive now can be received.
    bool wants_input() const { return !pending_.empty() && !needs_destination(); }
    // Whether the deferred reply with this number has begun to arrive, or is complete.
    bool has_begun(uint64_t number) const {
        return completed_ >= number || (completed_ + 1 == number && needs_destination());
    }

    struct Progress {
        bool moved = false;  // bytes were received
        std::optional<Error> error;
    };
    // Receives what is available.
    Progress pull();
    // Receives texts while no reply is pending. Any other bytes are kept, and will not match the next reply.
    std::optional<Error> read_unsolicited();
    // Makes all pending and later replies absent.
    void close();

    // Counts replies that began or ended.
    uint64_t milestones() const { return milestones_; }

    std::optional<std::string> take_refusal() { return std::exchange(refusal_, std::nullopt); }
    void count_launch() { ++launches_; }
    bool has_launch_failure() const { return launch_failure_.has_value(); }
    void set_launch_failure(std::string text);  // unless there is one
    std::optional<std::string> take_launch_failure();

private:
    // Whether the header of the next reply has arrived but the rest has no destination yet.
    bool needs_destination() const;
    Result<size_t> receive(std::span<const MutableBytes> parts);
    Result<bool> read_text_reply();
    Result<> count_launch_failure(const std::string & text);
    static void make_absent(const PendingReply & reply);

    const Receive receive_;
    bool is_closed_ = false;
    std::deque<PendingReply> pending_;
    uint64_t deferred_ = 0;
    uint64_t expected_ = 0, completed_ = 0;
    uint64_t header_ = 0;             // size field of the arriving reply
    size_t arrived_ = 0;              // its bytes so far, header included
    std::vector<std::byte> surplus_;  // received, but not part of the reply it was received into
    uint64_t milestones_ = 0;
    std::optional<std::string> refusal_, launch_failure_;
    uint64_t launches_ = 0, failed_launches_ = 0;
    uint64_t absent_until_ = 0;  // data up to this reply was requested before a launch failure was taken
};

}  // namespace caravan::client
