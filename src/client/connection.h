// One session with one server: commands, in the dialect that both speak, over a Stream.
//
// Threads: any, at any time. Ownership: buffers, back-ends and events share it; the session ends with the last of them.
// Failure: sticky and logged once. A failed connection sends nothing, its data is absent (Stream::Absent), and launch()
// returns GGML_STATUS_FAILED. It never comes back; RemoteServer opens a new one for who asks next.
//
// Absent data: what a lost server should have sent has all bits set, and so is recognized when the program writes it to
// this server. It, and what another server should have sent straight to this one, is undelivered(): launch() fails for a
// graph that reads it.
#pragma once

#include <atomic>
#include <deque>
#include <memory>
#include <unordered_map>
#include <vector>

#include "abi/ggml_abi.h"
#include "client/commands.h"
#include "client/idle_writes.h"
#include "client/loading.h"
#include "client/stats.h"
#include "client/stream.h"
#include "client/weight_source.h"
#include "client/tensor_encoding.h"
#include "net/endpoint.h"
#include "wire/extension.h"

namespace caravan::client {

struct RemoteBuffer {
    uint64_t handle = 0;
    uint64_t base = 0;  // the server's made-up address, never dereferenced here
    uint64_t size = 0;
};

// What never changes about a device.
struct DeviceConstants {
    uint64_t alignment = 0;
    uint64_t max_size = 0;
    wire::DeviceFactsAnswer facts{};  // of a native server
};

struct DeviceMemory {
    uint64_t free = 0;
    uint64_t total = 0;
};

// Of a session's loss.
struct LossReport {
    explicit LossReport(bool needless) : is_needless(needless) {}
    std::atomic<bool> is_needless;  // nothing of the program depends on the session
    std::atomic<bool> is_logged = false;
};

class Connection : public std::enable_shared_from_this<Connection> {
public:
    enum class Purpose {
        questions,  // the first four functions below; TCP
        session,    // anything; over RDMA where both ends can, which is logged
    };
    // Connects and shakes hands within connect_timeout(). A server that is full may keep a session waiting, which is logged,
    // for answer_timeout().
    static Result<std::shared_ptr<Connection>> open(const net::Endpoint & endpoint, Purpose purpose);
    ~Connection();

    const net::Endpoint & endpoint() const { return endpoint_; }
    bool failed();
    // Has any session of this process failed, ever?
    static bool any_failed() { return any_failed_.load(std::memory_order_relaxed); }
    // Does the server speak the native dialect?
    bool is_native() const { return native_ != nullptr; }

    // Questions. They block.
    Result<uint32_t> device_count();
    // Of the first `count` devices. From the front door, so before the first command of a session.
    Result<std::vector<DeviceConstants>> constants(uint32_t count);
    Result<DeviceMemory> memory(uint32_t device);
    // All asked at once.
    Result<std::vector<uint64_t>> alloc_sizes(std::span<const wire::GetAllocSizeRequest> requests);
    // Native only. `tensors` has an encode_question() or several; the answers are those to their nodes, 1: yes;
    // none at all if the server refuses the question.
    Result<std::vector<uint8_t>> supports(uint32_t device, std::span<const wire::GraphTensor> tensors);

    // Buffers. A failed allocation on the server is Errc::no_memory. `alignment`: the device's.
    Result<RemoteBuffer> alloc_buffer(uint32_t device, uint64_t size, uint64_t alignment = 1);
    void free_buffer(const RemoteBuffer & buffer);
    void clear_buffer(const RemoteBuffer & buffer, uint8_t value);

    // Data. `region` is an encode_region(); `range` is where the bytes lie on the server. Writes return when `data` is
    // no longer needed; reads return at once and the bytes are there when the ticket is done.
    void init_tensor(const wire::Region & region);
    void memset(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size, uint8_t value);
    void set(const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data, bool is_weight);
    void set_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size, uint64_t n_copies,
                uint64_t stride_tensor, const std::byte * data, uint64_t stride_data);
    // `absent`: what `dest` holds if they cannot come.
    Stream::Ticket get(const wire::Region & region, const Range & range, uint64_t offset, MutableBytes dest,
                       Stream::Absent absent = Stream::Absent::nan) {
        return get(region, range, offset, dest, absent, Reader::program);
    }
    // `dest` takes size * n_copies bytes, packed.
    Stream::Ticket get_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                          uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest);
    // Some programs, whisper.cpp among them, mark a buffer as one of weights only after they have filled it. So what was
    // written before the first launch is remembered, and counts as weights if its buffer is marked by then.
    bool has_unmarked_writes() const { return has_unmarked_writes_.load(std::memory_order_relaxed); }
    void mark_as_weights(const RemoteBuffer & buffer);
    // Within the server; false if it cannot.
    bool copy(const wire::Region & src, const Range & from, const wire::Region & dst, const Range & to);
    // From another server to this one, ordered as both servers' commands are. Returns at once. Straight from the one to
    // the other if they can be linked, which is tried the first time and logged; else as relay().
    void transfer(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                  const Range & to);
    // The same through this process: the bytes pass when they are needed.
    void relay(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
               const Range & to);

    // Computation. The server computes in the order of the commands. A launch whose result the program is about to read and
    // wait for returns when the result begins to arrive, so that it fails if the server is lost or cannot compute the graph;
    // any other returns when it is queued.
    ggml_status launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of);

    // Everything asked for so far / up to the ticket has arrived.
    void synchronize();
    void await(Stream::Ticket ticket);
    Stream::Ticket last_ticket();

private:
    struct Relay {
        std::shared_ptr<Connection> source;
        Stream::Ticket ticket;
        uint64_t hole = 0;
        ConstBytes bytes;  // in the hole
    };
    // From another server to this one.
    struct Link {
        uint64_t token = 0;   // 0: there is none
        uint16_t number = 0;  // among the source's links
        std::weak_ptr<Connection> source;
    };
    // A weight that the server was asked to find, and probably has: the answer is looked at later.
    struct PendingFind {
        wire::Region region;
        Range range;
        uint64_t offset = 0, size = 0;
        WeightSource source;  // if it has not
        uint8_t found = 0;
        Stream::Ticket ticket{};
    };
    using Lock = Stream::Lock;

    Connection(net::Endpoint endpoint, Purpose purpose, std::unique_ptr<net::Transport> transport, bool native);

    Link link_from(Connection & source);
    Result<Link> make_link(Connection & source);
    Result<std::string> connect(const Link & link, const std::string & endpoint);
    bool push(const Link & link, const wire::Region & src, const Range & from);
    void suspect_links();
    enum class Reader { program, relay };
    Stream::Ticket get(const wire::Region & region, const Range & range, uint64_t offset, MutableBytes dest,
                       Stream::Absent absent, Reader reader);
    // A launch that was followed by this without delay is held back for it the next time.
    void note_read(std::optional<ResultRead> read = std::nullopt);
    void discard_foreseen();
    ggml_status fail_launch(Lock & lock, const std::string & why);
    std::optional<ResultRead> first_bytes_of_output(const ggml_cgraph & graph, const HandleOf & handle_of) const;
    bool is_worth_a_round_trip(const KeptGraph * launched);
    ggml_status confirm_launch(Lock & lock, const ResultRead & read);
    template <class Answer, class... Request>
    Result<Answer> ask(wire::Command command, const Request &... request);
    // Of an answer: what failed, on which server.
    Result<> checked(Result<> sound) const;
    Result<> await_answer(Lock & lock);
    bool has_flag(uint8_t answer);
    void note_unmarked(uint64_t handle, uint64_t bytes, TimePoint begin);
    void settle(Lock & lock, uint64_t position);
    void flush(Lock & lock);
    void await_locked(Lock & lock, Stream::Ticket ticket);
    void before_other_command(Lock & lock, bool keeps_finds = false);
    void write(Lock & lock, const wire::Region & region, uint64_t offset, ConstBytes data, bool keep);
    void append_write(const wire::Region & region, uint64_t offset, ConstBytes data, bool keep);
    void append_held(const std::vector<HeldWrite> & writes);
    bool is_reachable(Lock & lock);
    void find_cause(Lock & lock);
    bool is_undelivered(const Range & range) const;
    void note_write(const Range & range, bool is_delivered);
    bool may_be_found(Lock & lock);
    bool found_by_hash(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data);
    void note_find(bool found);
    void settle_finds(Lock & lock, size_t left = 0);
    void report();
    // For GGML_RPC_TRACE and GGML_RPC_STATS.
    void begin_records();
    void end_records();
    void take_spans(SessionStats & stats, uint64_t end_ns);
    Tally tally() const;

    const net::Endpoint endpoint_;
    const Purpose purpose_;
    // Shared with the transport, whose own thread finds losses while nothing else uses the connection.
    const std::shared_ptr<LossReport> loss_report_;
    Stream stream_;
    std::optional<int64_t> clock_ahead_ns_;  // of the server's clock; if it records what it serves
    uint64_t quickest_ns_ = UINT64_MAX;      // of the questions for its clock
    bool is_recorded_ = false;               // for GGML_RPC_STATS

    // All below is guarded by stream_.mutex().
    std::unique_ptr<Commands> commands_;
    NativeCommands * native_ = nullptr;  // the same, if it is that; never changed
    IdleWrites idle_writes_;
    std::deque<Relay> relays_;
    KeptGraph * held_launch_ = nullptr;  // launched, but still in the batch: the get that follows goes with it
    KeptGraph * last_launch_ = nullptr;  // the command before this one was its launch
    TimePoint last_launch_time_{};
    std::optional<ResultRead> foreseen_;  // sent with the launch, because it followed the last time; not asked for yet
    uint64_t last_read_ = 0;              // number of the program's last read since the last launch, if not awaited yet
    uint64_t last_awaited_ = 0;           // number of the last answer that was waited for
    bool reads_overlap_ = false;          // the program launches the next graph before it awaits what it read of the last one
    int new_graphs_in_a_row_ = 0;
    std::chrono::nanoseconds last_result_time_{};  // from a launch until its result began to arrive
    int misses_in_a_row_ = 0;            // of weights that were asked for by hash
    std::optional<bool> has_cache_;      // the server, if it is native
    bool has_hashed_ = false;            // since the last launch
    bool last_was_found_ = false;        // of those
    std::deque<PendingFind> finds_;      // empty whenever another command than one for weights is queued
    uint64_t settled_finds_ = 0;
    struct Buffer {
        RemoteBuffer remote;
        uint64_t unmarked = 0;          // bytes that were written before the first launch, and not as weights
        TimePoint first{}, last{};      // of these writes
    };
    std::unordered_map<uint64_t, Buffer> buffers_;  // by handle
    std::atomic<bool> has_unmarked_writes_ = false;  // also read without the lock
    bool cause_is_sought_ = false;  // of a launch failure that was not taken yet
    std::vector<Range> undelivered_;  // last written with absent data
    Loading loading_;
    uint64_t launches_ = 0;
    const uint64_t opened_ns_;
    Tally at_open_, at_load_;  // when the program had its session / when the last weights were loaded

    std::mutex links_mutex_;  // taken before stream_.mutex(), and by one connection at a time
    std::unordered_map<uint64_t, Link> links_;  // by the source's id: what the first try came to
    std::atomic<uint16_t> next_link_ = 0;
    std::atomic<bool> links_suspect_ = false;  // a launch failed: perhaps since a link broke, so they are made anew
    static inline std::atomic<bool> any_failed_ = false;
    const uint64_t id_;                        // unlike any other connection's of this process
};

template <class Answer, class... Request>
Result<Answer> Connection::ask(wire::Command command, const Request &... request) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    commands_->post(command, request...);
    Answer answer{};
    await_locked(lock, stream_.expect(mutable_bytes(&answer, sizeof answer), true));
    if (stream_.failure()) {
        return fail(stream_.failure()->code, "{}: {}", endpoint_.text(), stream_.failure()->text);
    }
    if (auto refusal = stream_.take_refusal()) {
        return fail(Errc::unavailable, "{}: {}", endpoint_.text(), *refusal);
    }
    return answer;
}

}  // namespace caravan::client
