#include "net/resume/record_reader.h"

#include <algorithm>
#include <array>
#include <utility>

#include "tunables/resume.h"
#include "wire/record_check.h"

namespace caravan::net {
namespace {

constexpr size_t header_size = sizeof(wire::RecordHeader);

#ifdef FUZZING_BUILD_MODE_UNSAFE_FOR_PRODUCTION
constexpr bool checks = false;  // a fuzzer cannot compute checksums
#else
constexpr bool checks = true;
#endif

// The place in a list of buffers that is filled next.
class Cursor {
public:
    explicit Cursor(std::span<const MutableBytes> parts) : parts_(parts) {}

    bool is_at_end() {
        while (!parts_.empty() && offset_ == parts_.front().size()) {
            parts_ = parts_.subspan(1);
            offset_ = 0;
        }
        return parts_.empty();
    }
    // Copies what fits into the current buffer; not at the end. Returns how much.
    size_t copy(ConstBytes bytes) {
        const size_t step = std::min(bytes.size(), parts_.front().size() - offset_);
        std::ranges::copy(bytes.first(step), parts_.front().begin() + static_cast<ptrdiff_t>(offset_));
        offset_ += step;
        total_ += step;
        return step;
    }
    std::span<const MutableBytes> parts() const { return parts_; }
    size_t offset() const { return offset_; }
    size_t total() const { return total_; }

private:
    std::span<const MutableBytes> parts_;
    size_t offset_ = 0, total_ = 0;
};

}  // namespace

RecordReader::RecordReader() : staging_(tunable::record_staging_size) {}

// True if the next header is staged, and its data too if the checksum covers them.
bool RecordReader::has_record() const {
    if (staged_size() < header_size) {
        return false;
    }
    const uint64_t length = load<wire::RecordHeader>(staged().data()).length;
    return length > wire::max_checked_record || staged_size() - header_size >= length;
}

bool RecordReader::has_data() const {
    return stash_begin_ < stash_.size() || (record_left_ == 0 ? has_record() : staged_size() > 0);
}

void RecordReader::count_received(uint64_t size) {
    record_left_ -= size;
    received_ += size;
}

// Parses the next staged header. Precondition: has_record().
std::optional<RecordReader::Failure> RecordReader::next_record(uint64_t sent) {
    const auto header = load<wire::RecordHeader>(staged().data());
    staging_begin_ += header_size;
    const std::array data{staged()};
    if (checks && header.check != wire::record_check(received_, header, data)) {
        return Failure{Failure::Kind::corrupt, {Errc::io, "received a record with a wrong checksum"}};
    }
    if (header.length > wire::max_record) {
        return Failure{Failure::Kind::protocol, {Errc::protocol, "the peer sent a record longer than the maximum"}};
    }
    record_left_ = header.length;
    if (header.acknowledged > sent) {
        return Failure{Failure::Kind::protocol, {Errc::protocol, "the peer acknowledged bytes that were never sent"}};
    }
    acknowledged_ = std::max<uint64_t>(acknowledged_, header.acknowledged);
    return std::nullopt;
}

// Receives into staging_.
Result<size_t> RecordReader::fill(Transport & transport) {
    if (staging_begin_ > 0) {
        std::copy(staging_.begin() + static_cast<ptrdiff_t>(staging_begin_),
                  staging_.begin() + static_cast<ptrdiff_t>(staging_end_), staging_.begin());
        staging_end_ -= std::exchange(staging_begin_, 0);
    }
    const std::array parts{MutableBytes(staging_).subspan(staging_end_)};
    const auto got = transport.receive(parts);
    staging_end_ += got.value_or(0);
    return got;
}

// Receives data of the current record into the parts, from `offset` of the first one. If they hold the whole rest of the
// record, receives a little of what follows into staging_. Precondition: nothing is staged.
Result<size_t> RecordReader::receive_directly(Transport & transport, std::span<const MutableBytes> parts, size_t offset) {
    staging_begin_ = staging_end_ = 0;
    std::array<MutableBytes, max_parts> places;
    size_t count = 0;
    uint64_t left = record_left_;
    for (size_t i = 0; i < parts.size() && count + 1 < places.size() && left > 0; ++i) {
        const MutableBytes place = i == 0 ? parts[i].subspan(offset) : parts[i];
        places[count++] = place.first(std::min<uint64_t>(place.size(), left));
        left -= places[count - 1].size();
    }
    if (left == 0) {
        places[count++] = MutableBytes(staging_).first(tunable::record_look_ahead);
    }
    const auto got = transport.receive(std::span(places).first(count));
    if (!got) {
        return got;
    }
    const uint64_t direct = std::min<uint64_t>(*got, record_left_ - left);
    count_received(direct);
    staging_end_ = *got - direct;
    return direct;
}

size_t RecordReader::receive_stashed(std::span<const MutableBytes> parts) {
    Cursor cursor(parts);
    while (stash_begin_ < stash_.size() && !cursor.is_at_end()) {
        stash_begin_ += cursor.copy(ConstBytes(stash_).subspan(stash_begin_));
    }
    if (stash_begin_ == stash_.size()) {
        drop_stash();
    }
    consumed_ += cursor.total();
    return cursor.total();
}

RecordReader::Received RecordReader::receive(Transport * transport, std::span<const MutableBytes> parts, uint64_t sent) {
    Cursor cursor(parts);
    std::optional<Failure> failure;
    size_t direct = 0;
    while (!failure && !cursor.is_at_end()) {
        if (stash_begin_ < stash_.size()) {
            stash_begin_ += cursor.copy(ConstBytes(stash_).subspan(stash_begin_));
            if (stash_begin_ == stash_.size()) {
                drop_stash();
            }
        } else if (record_left_ > 0 && staged_size() > 0) {
            const size_t step = cursor.copy(staged().first(std::min<uint64_t>(record_left_, staged_size())));
            staging_begin_ += step;
            count_received(step);
        } else if (record_left_ == 0 && has_record()) {
            failure = next_record(sent);
        } else if (cursor.total() > 0 || transport == nullptr) {
            break;
        } else {
            const bool is_long = record_left_ > tunable::record_look_ahead;
            const auto got = is_long ? receive_directly(*transport, cursor.parts(), cursor.offset()) : fill(*transport);
            if (!got) {
                failure = Failure{Failure::Kind::connection, got.error()};
            } else if (is_long) {
                direct = *got;
                break;
            } else if (*got == 0) {
                break;
            }
        }
    }
    const size_t total = cursor.total() + direct;
    consumed_ += total;
    return {total, std::move(failure)};
}

std::optional<RecordReader::Failure> RecordReader::receive_ahead(Transport * transport, uint64_t sent) {
    for (;;) {
        std::optional<Failure> failure;
        while (!failure && (record_left_ > 0 ? staged_size() > 0 : has_record())) {
            if (record_left_ == 0) {
                failure = next_record(sent);
                continue;
            }
            const ConstBytes data = staged().first(std::min<uint64_t>(record_left_, staged_size()));
            stash_.insert(stash_.end(), data.begin(), data.end());
            staging_begin_ += data.size();
            count_received(data.size());
        }
        if (stash_.size() - stash_begin_ > wire::resume_window) {
            return Failure{Failure::Kind::protocol, {Errc::protocol, "the peer sent more than the window allows"}};
        }
        if (failure || transport == nullptr) {
            return failure;
        }
        const auto got = fill(*transport);
        if (!got) {
            return Failure{Failure::Kind::connection, got.error()};
        }
        if (*got == 0) {
            return std::nullopt;
        }
    }
}

void RecordReader::on_lost() {
    record_left_ = 0;
    staging_begin_ = staging_end_ = 0;
}

void RecordReader::drop_stash() {
    stash_.clear();
    stash_begin_ = 0;
}

}  // namespace caravan::net
