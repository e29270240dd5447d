// One session with one server: the commands of the stock dialect over a Stream.
//
// Threads: any, at any time. Ownership: buffers, back-ends and events share it; the session ends with the last of them.
// Failure: sticky and logged once. A failed connection sends nothing, reads as zeroes, and launch() returns
// GGML_STATUS_FAILED. It never comes back; RemoteServer opens a new one for who asks next.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "abi/ggml_abi.h"
#include "client/idle_writes.h"
#include "client/stream.h"
#include "client/tensor_encoding.h"
#include "net/endpoint.h"

namespace caravan::client {

struct RemoteBuffer {
    uint64_t handle = 0;
    uint64_t base = 0;  // the server's made-up address, never dereferenced here
    uint64_t size = 0;
};

struct DeviceMemory {
    uint64_t free = 0;
    uint64_t total = 0;
};

class Connection : public std::enable_shared_from_this<Connection> {
public:
    enum class Purpose {
        questions,  // the first five functions below; TCP
        session,    // anything; over RDMA where both ends can, which is logged
    };
    // Connects and shakes hands within connect_timeout().
    static Result<std::shared_ptr<Connection>> open(const net::Endpoint & endpoint, Purpose purpose);
    ~Connection();

    const net::Endpoint & endpoint() const { return endpoint_; }
    bool failed();

    // Questions. They block.
    Result<uint32_t> device_count();
    Result<uint64_t> alignment(uint32_t device);
    Result<uint64_t> max_size(uint32_t device);
    Result<DeviceMemory> memory(uint32_t device);
    Result<uint64_t> alloc_size(const wire::GetAllocSizeRequest & request);

    // Buffers. A failed allocation on the server is Errc::no_memory.
    Result<RemoteBuffer> alloc_buffer(uint32_t device, uint64_t size);
    void free_buffer(const RemoteBuffer & buffer);
    void clear_buffer(const RemoteBuffer & buffer, uint8_t value);

    // Data. `tensor` is an encode_region(); `range` is where the bytes lie on the server. Writes return when `data` is
    // no longer needed; reads return at once and the bytes are there when the ticket is done.
    void init_tensor(const wire::Tensor & tensor);
    void memset(const wire::Tensor & tensor, const Range & range, uint64_t offset, uint64_t size, uint8_t value);
    void set(const wire::Tensor & tensor, const Range & range, uint64_t offset, ConstBytes data, bool is_weight);
    void set_2d(const wire::Tensor & tensor, const Range & range, uint64_t offset, uint64_t size, uint64_t n_copies,
                uint64_t stride_tensor, const std::byte * data, uint64_t stride_data);
    Stream::Ticket get(const wire::Tensor & tensor, const Range & range, uint64_t offset, MutableBytes dest);
    // `dest` takes size * n_copies bytes, packed.
    Stream::Ticket get_2d(const wire::Tensor & tensor, const Range & range, uint64_t offset, uint64_t size,
                          uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest);
    // Within the server; false if it cannot.
    bool copy(const wire::Tensor & src, const Range & from, const wire::Tensor & dst, const Range & to);
    // From another server to this one. Returns at once; the bytes pass through this process when they are needed.
    void relay(Connection & source, const wire::Tensor & src, const Range & from, const wire::Tensor & dst,
               const Range & to);

    // Computation. Returns when the launch is queued; the server computes in the order of the commands.
    ggml_status launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of);

    // Everything asked for so far / up to the ticket has arrived.
    void synchronize();
    void await(Stream::Ticket ticket);
    Stream::Ticket last_ticket();

private:
    struct KeptGraph {
        Ranges touched;
        bool read_at_once = false;  // last time, its launch was followed by a get without delay
    };
    struct Relay {
        std::shared_ptr<Connection> source;
        Stream::Ticket ticket;
        uint64_t hole = 0;
    };
    using Lock = Stream::Lock;

    Connection(net::Endpoint endpoint, std::unique_ptr<net::Transport> transport);

    template <class Request>
    void post(wire::Command command, const Request & request, uint64_t extra = 0);
    template <class Answer, class Request>
    Result<Answer> ask(wire::Command command, const Request & request);
    void settle(Lock & lock, uint64_t position);
    void flush(Lock & lock);
    void await_locked(Lock & lock, Stream::Ticket ticket);
    void before_other_command(Lock & lock);
    void write(Lock & lock, const wire::Tensor & tensor, uint64_t offset, ConstBytes data, bool cache);
    void append_write(const wire::Tensor & tensor, uint64_t offset, ConstBytes data, bool cache);
    void append_held(const std::vector<HeldWrite> & writes);
    bool found_by_hash(Lock & lock, const wire::Tensor & tensor, uint64_t offset, ConstBytes data);
    void report();

    const net::Endpoint endpoint_;
    Stream stream_;
    bool reported_ = false;

    // All below is guarded by stream_.mutex().
    IdleWrites idle_writes_;
    std::deque<Relay> relays_;
    std::unordered_map<uint32_t, std::unordered_map<uint64_t, KeptGraph>> kept_;  // by device, by uid
    KeptGraph * held_launch_ = nullptr;  // launched, but still in the batch: the get that follows goes with it
    KeptGraph * last_launch_ = nullptr;  // the command before this one was its launch
    TimePoint last_launch_time_{};
    int misses_in_a_row_ = 0;            // of SET_TENSOR_HASH
};

}  // namespace caravan::client
