// One session with one server: sends commands, in the dialect that both peers support, over a Stream.
//
// Threads: any. Ownership: shared by buffers, back-ends and events; the last of them closes the session.
// Failure: sticky and logged once. A failed connection sends nothing, its reads return absent data (Stream::Absent), and
// launch() returns GGML_STATUS_FAILED. It never recovers; RemoteServer opens a new connection for the next caller.
//
// Absent data: reads from a lost server return bytes with all bits set. launch() fails for a graph that reads a region which
// was last written with absent data, or with data that another server failed to send (undelivered_regions.h).
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "abi/ggml_abi.h"
#include "client/encode/commands.h"
#include "client/encode/tensor_encoding.h"
#include "client/observe/session_recorder.h"
#include "client/observe/stats.h"
#include "client/session/idle_writes.h"
#include "client/session/launch_prediction.h"
#include "client/session/relays.h"
#include "client/session/server_links.h"
#include "client/session/stream.h"
#include "client/session/undelivered_regions.h"
#include "client/weights/loading.h"
#include "client/weights/weight_lookup.h"
#include "net/endpoint.h"
#include "wire/extension.h"

namespace caravan::client {

struct RemoteBuffer {
    uint64_t handle = 0;
    uint64_t base = 0;  // virtual address, assigned by the server; never dereferenced here
    uint64_t size = 0;
};

// Properties of a device that never change.
struct DeviceConstants {
    uint64_t alignment = 0;
    uint64_t max_size = 0;
    wire::DeviceFactsAnswer facts{};  // native servers only
};

struct DeviceMemory {
    uint64_t free = 0;
    uint64_t total = 0;
};

// Whether the loss of a session must be reported. Threads: any.
struct LossReport {
    explicit LossReport(bool needless) : is_needless(needless) {}
    std::atomic<bool> is_needless;  // the program no longer depends on the session
    std::atomic<bool> is_logged = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
public:
    enum class Purpose {
        queries,  // only the first four queries below; TCP
        session,  // all functions; uses RDMA where both peers have it, and logs the transport
    };
    // Connects and completes the handshake within connect_timeout(). A full server may queue the client for up to
    // answer_timeout(), which is logged. Fails with the error of net::open_client().
    static Result<std::shared_ptr<Connection>> open(const net::Endpoint & endpoint, Purpose purpose);
    ~Connection();

    const net::Endpoint & endpoint() const { return endpoint_; }
    bool failed();
    // Whether any session of this process has failed.
    static bool any_failed() { return any_failed_.load(std::memory_order_relaxed); }
    // Whether the server uses the native dialect.
    bool is_native() const { return native_ != nullptr; }

    // Queries block until the reply arrives. They fail with the connection's error, or with Errc::protocol if the reply is
    // out of bounds (reply_check.h).
    Result<uint32_t> device_count();
    // Of the first `count` devices. Only the front door replies to this, so call it before any session command.
    Result<std::vector<DeviceConstants>> constants(uint32_t count);
    Result<DeviceMemory> memory(uint32_t device);
    // Sends all requests in one batch.
    Result<std::vector<uint64_t>> alloc_sizes(std::span<const wire::GetAllocSizeRequest> requests);
    // Native servers only. `tensors` is the concatenation of one or more encode_op_query(). Returns 1 (supported) or 0 for
    // each node, or an empty vector if the server refuses the query.
    Result<std::vector<uint8_t>> supports(uint32_t device, std::span<const wire::GraphTensor> tensors);

    // Buffers. Fails with Errc::no_memory if the server cannot allocate. `alignment` is that of the device, in bytes.
    Result<RemoteBuffer> alloc_buffer(uint32_t device, uint64_t size, uint64_t alignment = 1);
    void free_buffer(const RemoteBuffer & buffer);
    void clear_buffer(const RemoteBuffer & buffer, uint8_t value);

    // Data. `region` is an encode_region(); `range` holds the bytes' addresses on the server. Writes return as soon as `data`
    // may be reused. Reads return immediately; `dest` is filled once the ticket is done and must live until then.
    void init_tensor(const wire::Region & region);
    void memset(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size, uint8_t value);
    void set(const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data, bool is_weight);
    void set_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size, uint64_t n_copies,
                uint64_t stride_tensor, const std::byte * data, uint64_t stride_data);
    // `absent`: the content of `dest` if the data cannot arrive.
    Stream::Ticket get(const wire::Region & region, const Range & range, uint64_t offset, MutableBytes dest,
                       Stream::Absent absent = Stream::Absent::nan) {
        return get(region, range, offset, dest, absent, Reader::program);
    }
    // `dest` holds size * n_copies bytes, without gaps.
    Stream::Ticket get_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                          uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest);
    // Some programs, for example whisper.cpp, mark a buffer as a weight buffer only after they have filled it. Bytes written
    // before the first launch therefore count as weights if their buffer is marked by then.
    bool has_unmarked_writes() const { return has_unmarked_writes_.load(std::memory_order_relaxed); }
    void mark_as_weights(const RemoteBuffer & buffer);
    // Copies within the server and waits for the result. False if the server cannot.
    bool copy(const wire::Region & src, const Range & from, const wire::Region & dst, const Range & to);
    // Copies from another server to this one, in order with both servers' commands. Returns immediately. Uses a link between
    // the servers if there is one (the first call tries to make it and logs the result), else relay().
    void transfer(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                  const Range & to);
    // The same through this process. The bytes are forwarded when a later command needs them.
    void relay(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
               const Range & to);

    // Computation. The server executes commands in order. If the program is expected to read and await the result next, the
    // launch returns when the result begins to arrive, and so fails if the server is lost or cannot compute the graph. Any
    // other launch returns once it is queued.
    ggml_status launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of);

    // Wait until all replies, or those up to the ticket, have arrived.
    void synchronize();
    void await(Stream::Ticket ticket);
    Stream::Ticket last_ticket();

private:
    using Lock = Stream::Lock;

    Connection(net::Endpoint endpoint, Purpose purpose, std::unique_ptr<net::Transport> transport, bool native);

    Result<ServerLink> make_link(Connection & source);
    Result<std::string> connect(const ServerLink & link, const std::string & endpoint);
    bool push(const ServerLink & link, const wire::Region & src, const Range & from);
    void probe_link_sources();
    enum class Reader { program, relay };
    Stream::Ticket get(const wire::Region & region, const Range & range, uint64_t offset, MutableBytes dest,
                       Stream::Absent absent, Reader reader);
    void discard_prefetched();
    ggml_status fail_launch(Lock & lock, const std::string & why);
    std::optional<ResultRead> first_bytes_of_output(const ggml_cgraph & graph, const HandleOf & handle_of) const;
    ggml_status confirm_launch(Lock & lock, const ResultRead & read);
    template <class Answer, class... Request>
    Result<Answer> query(wire::Command command, const Request &... request);
    // Adds the endpoint to the error.
    Result<> with_endpoint(Result<> sound) const;
    Result<> await_replies(Lock & lock);
    bool decode_flag(uint8_t reply);
    void record_unmarked_write(uint64_t handle, uint64_t bytes, TimePoint begin);
    void flush(Lock & lock);
    void await_locked(Lock & lock, Stream::Ticket ticket);
    void begin_command(Lock & lock, bool keeps_finds = false);
    void write(Lock & lock, const wire::Region & region, uint64_t offset, ConstBytes data, bool keep);
    void append_write(const wire::Region & region, uint64_t offset, ConstBytes data, bool keep);
    void append_held(const std::vector<HeldWrite> & writes);
    bool is_reachable(Lock & lock);
    void investigate_launch_failure(Lock & lock);
    bool should_look_up(Lock & lock);
    bool find_on_server(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data);
    void resolve_finds(Lock & lock, size_t left = 0);
    void report_failure();
    void start_recording();
    void finish_recording();

    const net::Endpoint endpoint_;
    const Purpose purpose_;
    // Shared with the transport, whose thread detects a loss while the connection is idle.
    const std::shared_ptr<LossReport> loss_report_;
    Stream stream_;
    // All below is guarded by stream_.mutex().
    std::unique_ptr<Commands> commands_;
    NativeCommands * native_ = nullptr;  // commands_ if native, else null; constant
    IdleWrites idle_writes_;
    Relays relays_{stream_};
    LaunchPrediction prediction_;
    WeightLookup lookup_;  // none is pending whenever a command that is no weight upload is queued
    struct Buffer {
        RemoteBuffer remote;
        uint64_t unmarked = 0;      // bytes written before the first launch, and not as weights
        TimePoint first{}, last{};  // times of these writes
    };
    std::unordered_map<uint64_t, Buffer> buffers_;  // by handle
    std::atomic<bool> has_unmarked_writes_ = false;  // read without the lock too
    bool is_failure_investigated_ = false;  // the launch failure that was not taken yet
    UndeliveredRegions undelivered_;
    Loading loading_;
    SessionRecorder recorder_;

    ServerLinks links_;                    // from other servers
    std::atomic<uint16_t> next_link_ = 0;  // number of the next link to another server
    static inline std::atomic<bool> any_failed_ = false;
    const uint64_t id_;  // unique in the process
};

template <class Answer, class... Request>
Result<Answer> Connection::query(wire::Command command, const Request &... request) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    commands_->post(command, request...);
    Answer reply{};
    await_locked(lock, stream_.expect(mutable_bytes(&reply, sizeof reply), true));
    if (stream_.failure()) {
        return fail(stream_.failure()->code, "{}: {}", endpoint_.text(), stream_.failure()->text);
    }
    if (auto refusal = stream_.take_refusal()) {
        return fail(Errc::unavailable, "{}: {}", endpoint_.text(), *refusal);
    }
    return reply;
}

}  // namespace caravan::client
