#include "client/session/tensor_data.h"

#include <algorithm>
#include <cstring>

#include "client/session/program_clock.h"
#include "tunables/client.h"

namespace caravan::client {

void TensorData::init_tensor(const wire::Region & region) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (!queue_.failure()) {
        queue_.commands().initialize(region);
    }
}

void TensorData::memset(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size, uint8_t value) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (!queue_.failure() && size > 0) {
        queue_.send_held(range);
        queue_.undelivered().record_write(range, true);
        queue_.commands().fill(region, offset, size, value);
    }
}

void TensorData::set(const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data, bool is_weight) {
    if (data.size() > tunable::copy_limit) {
        queue_.await_upgrade();
    }
    auto lock = queue_.lock();
    queue_.begin(lock, is_weight && queue_.uploads().may_overtake(range));
    if (queue_.failure() || data.empty()) {
        return;
    }
    queue_.undelivered().record_write(range, is_weight || !is_absent(region.type, data));
    if (queue_.idle_writes().hold(range, region, offset, data)) {
        return;
    }
    queue_.send_held(range);
    if (is_weight) {
        queue_.uploads().upload(lock, region, range, offset, data, buffers_.size_of(region.buffer));
        return;
    }
    const TimePoint begin = recorder_.launches() == 0 ? Clock::now() : TimePoint();
    queue_.write(lock, region, offset, data, false);
    queue_.idle_writes().record_sent(range);
    if (recorder_.launches() == 0) {
        buffers_.record_unmarked_write(region.buffer, data.size(), begin);
    }
}

void TensorData::set_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                        uint64_t n_copies, uint64_t stride_tensor, const std::byte * data, uint64_t stride_data,
                        bool is_weight) {
    const bool is_packed = n_copies == 1 || stride_tensor == size;
    if (is_packed && (n_copies == 1 || stride_data == size)) {
        set(region, range, offset, {data, size * n_copies}, is_weight);
        return;
    }
    auto lock = queue_.lock();
    const bool is_upload = is_weight && is_packed;
    queue_.begin(lock, is_upload && queue_.uploads().may_overtake(range));
    if (queue_.failure() || size == 0 || n_copies == 0) {
        return;
    }
    queue_.send_held(range);
    if (is_upload) {
        queue_.undelivered().record_write(range, true);
        queue_.uploads().upload(lock, region, range, offset, {data, size, n_copies, stride_data},
                                buffers_.size_of(region.buffer));
        return;
    }
    queue_.commands().write_2d(region, offset, size, n_copies, stride_tensor);
    const MutableBytes packed = queue_.stream().append(size * n_copies);
    for (uint64_t i = 0; i < n_copies; ++i) {
        std::memcpy(packed.data() + i * size, data + i * stride_data, size);
    }
    queue_.undelivered().record_write(range, !is_absent(region.type, packed));
    queue_.flush_if_large(lock);
}

Stream::Ticket TensorData::read(const ResultRead & read, MutableBytes dest, Stream::Absent absent, Reader reader) {
    const ProgramClock::Pause pause;
    auto lock = queue_.lock();
    Stream & stream = queue_.stream();
    LaunchPrediction & prediction = queue_.prediction();
    if (reader == Reader::program && prediction.is_prefetched(read) && stream.has_deferred()) {
        prediction.take_prefetched();
        stream.set_destination(dest, absent);
        prediction.record_read(stream.last_ticket().number);
        return stream.last_ticket();
    }
    queue_.begin_read(lock);
    if (queue_.failure() || dest.empty() || queue_.undelivered().overlaps(read.range)) {
        std::ranges::fill(dest, static_cast<std::byte>(absent));
        return {};
    }
    queue_.send_held(read.range);
    queue_.commands().read(read.region, read.offset, dest.size());
    const auto ticket = stream.expect_data(dest, absent);
    if (reader == Reader::program) {
        prediction.record_read(ticket.number);
        prediction.record_habit(read, ProgramClock::now());
    } else {
        prediction.record_habit(std::nullopt, ProgramClock::now());
    }
    if (queue_.relays().empty()) {
        queue_.flush(lock);
    }
    return ticket;
}

Stream::Ticket TensorData::get_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                                  uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (queue_.failure() || dest.empty() || queue_.undelivered().overlaps(range)) {
        std::ranges::fill(dest, static_cast<std::byte>(Stream::Absent::nan));
        return {};
    }
    queue_.send_held(range);
    queue_.commands().read_2d(region, offset, size, n_copies, stride_tensor);
    return queue_.stream().expect_data(dest, Stream::Absent::nan);
}

bool TensorData::copy(const wire::Region & src, const Range & from, const wire::Region & dst, const Range & to) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (queue_.failure() || (from.begin == from.end && to.begin == to.end)) {
        return true;  // nothing to copy, or no server; the caller's fallback would fail as well
    }
    queue_.send_held(from);
    queue_.send_held(to);
    queue_.undelivered().record_write(to, !queue_.undelivered().overlaps(from));
    if (!queue_.commands().copy(src, dst)) {
        return true;
    }
    uint8_t done = 0;
    queue_.await(lock, queue_.stream().expect(mutable_bytes(&done, sizeof done)));
    return queue_.decode_flag(done) || queue_.failure();
}

}  // namespace caravan::client
