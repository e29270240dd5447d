#include "net/resume/record_writer.h"

#include <algorithm>
#include <array>

#include "tunables/resume.h"
#include "wire/record_check.h"

namespace caravan::net {
namespace {

// Send a standalone acknowledgement after this many bytes unless one can piggyback.
constexpr uint64_t acknowledge_after = wire::resume_window / tunable::acknowledge_share;

size_t total_size(std::span<const ConstBytes> parts) {
    size_t size = 0;
    for (const ConstBytes part : parts) {
        size += part.size();
    }
    return size;
}

}  // namespace

void RecordWriter::queue(ConstBytes bytes) { control_.insert(control_.end(), bytes.begin(), bytes.end()); }

// Queues the header of a record with the next `length` bytes of the stream, which `data` begins with (unused for a long
// record).
void RecordWriter::queue_header(uint64_t length, std::span<const ConstBytes> data, uint64_t consumed) {
    record_left_ = length;
    wire::RecordHeader header{static_cast<uint32_t>(length), 0, consumed};
    header.check = wire::record_check(sent_, header, data);
    queue(const_bytes(&header, sizeof header));
    last_acknowledgement_ = consumed;
}

Result<bool> RecordWriter::flush(Transport & transport, uint64_t end, uint64_t consumed) {
    while (!control_.empty() || sent_ < end) {
        if (record_left_ == 0 && sent_ < end) {
            std::vector<ConstBytes> kept;
            const uint64_t length = std::min<uint64_t>(end - sent_, wire::max_record);
            for (uint64_t at = sent_; length <= wire::max_checked_record && at < sent_ + length;) {
                kept.push_back(replay_.at(at, sent_ + length - at));
                at += kept.back().size();
            }
            queue_header(length, kept, consumed);
        }
        const uint64_t size = std::min(record_left_, end - sent_);
        const ConstBytes first = replay_.at(sent_, size);
        const std::array parts{ConstBytes(control_), first, replay_.at(sent_ + first.size(), size - first.size())};
        const auto sent = transport.send(parts);
        if (!sent) {
            return std::unexpected(sent.error());
        }
        if (*sent == 0) {
            return false;
        }
        const size_t of_control = std::min(*sent, control_.size());
        control_.erase(control_.begin(), control_.begin() + static_cast<ptrdiff_t>(of_control));
        sent_ += *sent - of_control;
        record_left_ -= *sent - of_control;
    }
    return true;
}

bool RecordWriter::needs_acknowledgement(std::span<const ConstBytes> parts) const {
    return record_left_ == 0 && window_left() < std::min<uint64_t>(total_size(parts), wire::max_record);
}

bool RecordWriter::begin_record(std::span<const ConstBytes> parts, uint64_t consumed) {
    if (record_left_ > 0) {
        return true;
    }
    // A record fits into the window, so it never waits for an acknowledgement in the middle.
    const uint64_t length = std::min({uint64_t{total_size(parts)}, window_left(), uint64_t{wire::max_record}});
    if (length == 0) {
        return false;
    }
    queue_header(length, parts, consumed);
    return true;
}

RecordWriter::Written RecordWriter::write(Transport & transport, std::span<const ConstBytes> parts, TimePoint now,
                                          uint64_t consumed) {
    const uint64_t begin = replay_.end();
    uint64_t left = std::min<uint64_t>(total_size(parts), record_left_);
    const uint64_t end = begin + left;
    for (const ConstBytes part : parts) {
        const size_t step = std::min<uint64_t>(part.size(), left);
        replay_.append(part.first(step));
        left -= step;
    }
    const auto flushed = flush(transport, end, consumed);
    // The caller keeps the bytes that were not sent, and passes them again.
    const uint64_t sent = std::max(sent_, begin);
    replay_.truncate(sent);
    last_write_ = now;
    has_probed_ = false;
    return {sent - begin, flushed ? std::nullopt : std::optional(flushed.error())};
}

bool RecordWriter::acknowledge_if_due(uint64_t consumed) {
    if (consumed - last_acknowledgement_ < acknowledge_after || !control_.empty() || record_left_ > 0) {
        return false;
    }
    queue_header(0, {}, consumed);
    return true;
}

TimePoint RecordWriter::probe_time() const {
    const bool is_due = !has_probed_ && replay_.begin() < replay_.end() && !has_unsent() && record_left_ == 0;
    return is_due ? last_write_ + probe_after_ : no_deadline;
}

bool RecordWriter::probe_if_due(TimePoint now, uint64_t consumed) {
    if (now < probe_time()) {
        return false;
    }
    has_probed_ = true;
    queue_header(0, {}, consumed);
    return true;
}

void RecordWriter::on_acknowledged(uint64_t position) {
    if (position > replay_.begin()) {
        replay_.forget(position);
    }
}

void RecordWriter::on_lost() {
    control_.clear();
    record_left_ = 0;
}

bool RecordWriter::resume(uint64_t position, uint64_t consumed) {
    if (position < replay_.begin() || position > sent_) {
        return false;
    }
    replay_.forget(position);
    sent_ = position;
    last_acknowledgement_ = consumed;
    return true;
}

}  // namespace caravan::net
