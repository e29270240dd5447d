// Reads, writes and copies of tensors in the buffers of one session.
//
// `region` is an encode_region(); `range` has the bytes' addresses on the server. Writes return as soon as `data` may be
// reused. Reads return immediately; `dest` is filled once the ticket is done and must live until then. Nothing here reports
// the loss of the server: data that cannot arrive is absent (Stream::Absent). Threads: any.
#pragma once

#include "client/observe/session_recorder.h"
#include "client/session/buffer_table.h"
#include "client/session/command_queue.h"

namespace caravan::client {

class TensorData {
public:
    TensorData(CommandQueue & queue, BufferTable & buffers, const SessionRecorder & recorder)
        : queue_(queue), buffers_(buffers), recorder_(recorder) {}

    void init_tensor(const wire::Region & region);
    void memset(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size, uint8_t value);
    void set(const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data, bool is_weight);
    // Rows of `size` bytes, `stride_tensor` bytes apart in the tensor and `stride_data` in memory.
    void set_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size, uint64_t n_copies,
                uint64_t stride_tensor, const std::byte * data, uint64_t stride_data,
                bool is_weight = false);
    // `absent`: the content of `dest` if the data cannot arrive.
    Stream::Ticket get(const wire::Region & region, const Range & range, uint64_t offset, MutableBytes dest,
                       Stream::Absent absent = Stream::Absent::nan) {
        return read({region, range, offset, dest.size()}, dest, absent, Reader::program);
    }
    // A read of the whole region for a relay. The program does not wait for it.
    Stream::Ticket get_for_relay(const wire::Region & region, const Range & range, MutableBytes dest) {
        return read({region, range, 0, dest.size()}, dest, Stream::Absent::nan, Reader::relay);
    }
    // `dest` holds size * n_copies bytes, without gaps.
    Stream::Ticket get_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                          uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest);
    // Copies within the server and waits for the result. False if the server cannot.
    bool copy(const wire::Region & src, const Range & from, const wire::Region & dst, const Range & to);

private:
    enum class Reader { program, relay };
    Stream::Ticket read(const ResultRead & read, MutableBytes dest, Stream::Absent absent, Reader reader);

    CommandQueue & queue_;
    BufferTable & buffers_;
    const SessionRecorder & recorder_;
};

}  // namespace caravan::client
