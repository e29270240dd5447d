#include "client/connection.h"

#include <algorithm>

#include "base/config.h"
#include "base/log.h"
#include "net/handshake.h"

namespace caravan::client {
namespace {

using wire::Command;

// Up to this size a write is copied into the batch; a longer one leaves from the caller's memory, uncopied.
constexpr size_t copy_limit = 64 * 1024;
// A batch that has grown so far leaves even if nothing asks for it.
constexpr size_t batch_limit = 1024 * 1024;
// A get that comes sooner than this after a launch counts as "at once".
constexpr microseconds at_once{100};
// So many weights in a row that the server did not have: it will not have the rest, so stop hashing.
constexpr int hopeless = 8;

}  // namespace

Connection::Connection(net::Endpoint endpoint, std::unique_ptr<net::Transport> transport)
    : endpoint_(std::move(endpoint)), stream_(std::move(transport), answer_timeout(), poll_time()) {}

Connection::~Connection() {
    for (const Relay & relay : relays_) {
        relay.source->await(relay.ticket);  // its answer goes into our memory
    }
    log_debug("{}: session closed, {} flushes", endpoint_.text(), stream_.flushes());
}

Result<std::shared_ptr<Connection>> Connection::open(const net::Endpoint & endpoint, Purpose purpose) {
    const bool is_session = purpose == Purpose::session;
    auto opened = net::open_client(endpoint, is_session, Clock::now() + connect_timeout());
    if (!opened) {
        return std::unexpected(opened.error());
    }
    const std::string kind(opened->transport->kind());
    if (is_session && net::has_rdma) {
        log_info("RPC server {}: transport {}{}{}", endpoint.text(), kind, opened->why_not_rdma.empty() ? "" : ", because ",
                 opened->why_not_rdma);
    } else {
        log_debug("{}: connected over {} for {}", endpoint.text(), kind, is_session ? "a session" : "questions");
    }
    return std::shared_ptr<Connection>(new Connection(endpoint, std::move(opened->transport)));
}

void Connection::report() {
    if (stream_.failure() && !reported_) {
        reported_ = true;
        log_error("RPC server {} is lost: {}. Its devices answer with failure from now on; load the model again once "
                  "the server is back",
                  endpoint_.text(), stream_.failure()->text);
    }
}

bool Connection::failed() {
    Lock lock(stream_.mutex());
    return stream_.failure().has_value();
}

template <class Request>
void Connection::post(Command command, const Request & request, uint64_t extra) {
    const MutableBytes at = stream_.append(sizeof(wire::RequestHeader) + sizeof request);
    store(at.data(), wire::RequestHeader{command, sizeof request + extra});
    store(at.data() + sizeof(wire::RequestHeader), request);
}

template <class Answer, class Request>
Result<Answer> Connection::ask(Command command, const Request & request) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    post(command, request);
    Answer answer{};
    await_locked(lock, stream_.expect(mutable_bytes(&answer, sizeof answer)));
    if (stream_.failure()) {
        return fail(stream_.failure()->code, "{}: {}", endpoint_.text(), stream_.failure()->text);
    }
    return answer;
}

Result<uint32_t> Connection::device_count() {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    store(stream_.append(sizeof(wire::RequestHeader)).data(), wire::RequestHeader{Command::device_count, 0});
    uint32_t count = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&count, sizeof count)));
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    return count;
}

Result<uint64_t> Connection::alignment(uint32_t device) {
    return ask<uint64_t>(Command::get_alignment, wire::DeviceRequest{device});
}

Result<uint64_t> Connection::max_size(uint32_t device) {
    return ask<uint64_t>(Command::get_max_size, wire::DeviceRequest{device});
}

Result<DeviceMemory> Connection::memory(uint32_t device) {
    return ask<wire::DeviceMemoryAnswer>(Command::get_device_memory, wire::DeviceRequest{device})
        .transform([](const wire::DeviceMemoryAnswer & answer) { return DeviceMemory{answer.free, answer.total}; });
}

Result<uint64_t> Connection::alloc_size(const wire::GetAllocSizeRequest & request) {
    return ask<uint64_t>(Command::get_alloc_size, request);
}

Result<RemoteBuffer> Connection::alloc_buffer(uint32_t device, uint64_t size) {
    auto answer = ask<wire::AllocBufferAnswer>(Command::alloc_buffer, wire::AllocBufferRequest{device, size});
    if (!answer) {
        return std::unexpected(answer.error());
    }
    if (answer->buffer == 0) {
        return fail(Errc::no_memory, "{}: the server cannot allocate {} bytes on its device {}", endpoint_.text(), size,
                    device);
    }
    const auto base = ask<uint64_t>(Command::buffer_get_base, wire::BufferRequest{answer->buffer});
    if (!base) {
        return std::unexpected(base.error());
    }
    if (answer->size < size || *base == 0 || *base + answer->size < *base) {
        return fail(Errc::protocol, "{}: the server answered ALLOC_BUFFER with nonsense", endpoint_.text());
    }
    return RemoteBuffer{answer->buffer, *base, answer->size};
}

void Connection::free_buffer(const RemoteBuffer & buffer) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    idle_writes_.forget({buffer.base, buffer.base + buffer.size});
    if (stream_.failure()) {
        return;
    }
    post(Command::free_buffer, wire::BufferRequest{buffer.handle});
    // A stock server forgets every graph whenever any buffer is freed.
    kept_.clear();
    last_launch_ = nullptr;
    flush(lock);
}

void Connection::clear_buffer(const RemoteBuffer & buffer, uint8_t value) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    idle_writes_.forget({buffer.base, buffer.base + buffer.size});
    if (!stream_.failure()) {
        post(Command::buffer_clear, wire::BufferClearRequest{buffer.handle, value});
    }
}

void Connection::init_tensor(const wire::Tensor & tensor) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (!stream_.failure()) {
        post(Command::init_tensor, tensor);
    }
}

void Connection::memset(const wire::Tensor & tensor, const Range & range, uint64_t offset, uint64_t size,
                        uint8_t value) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (!stream_.failure() && size > 0) {
        append_held(idle_writes_.take_overlapping(range));
        post(Command::memset_tensor, wire::MemsetTensorRequest{tensor, offset, size, value});
    }
}

void Connection::set(const wire::Tensor & tensor, const Range & range, uint64_t offset, ConstBytes data,
                     bool is_weight) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure() || data.empty() || idle_writes_.hold(range, tensor, offset, data)) {
        return;
    }
    append_held(idle_writes_.take_overlapping(range));
    const bool hashed = is_weight && data.size() > wire::hash_threshold;
    if (hashed && found_by_hash(lock, tensor, offset, data)) {
        return;
    }
    write(lock, tensor, offset, data, hashed);
    if (!is_weight) {
        idle_writes_.note_sent(range);
    }
}

void Connection::set_2d(const wire::Tensor & tensor, const Range & range, uint64_t offset, uint64_t size,
                        uint64_t n_copies, uint64_t stride_tensor, const std::byte * data, uint64_t stride_data) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure() || size == 0 || n_copies == 0) {
        return;
    }
    append_held(idle_writes_.take_overlapping(range));
    post(Command::set_tensor_2d, wire::Tensor2dRequest{tensor, offset, size, n_copies, stride_tensor}, size * n_copies);
    const MutableBytes packed = stream_.append(size * n_copies);
    for (uint64_t i = 0; i < n_copies; ++i) {
        std::memcpy(packed.data() + i * size, data + i * stride_data, size);
    }
    if (stream_.unsent() >= batch_limit) {
        flush(lock);
    }
}

Stream::Ticket Connection::get(const wire::Tensor & tensor, const Range & range, uint64_t offset, MutableBytes dest) {
    Lock lock(stream_.mutex());
    if (stream_.failure() || dest.empty()) {
        std::ranges::fill(dest, std::byte{0});
        return {};
    }
    append_held(idle_writes_.take_overlapping(range));
    post(Command::get_tensor, wire::GetTensorRequest{tensor, offset, dest.size()});
    const auto ticket = stream_.expect(dest);
    if (last_launch_ != nullptr) {
        last_launch_->read_at_once = Clock::now() - last_launch_time_ < at_once;
    }
    last_launch_ = held_launch_ = nullptr;
    if (relays_.empty()) {
        flush(lock);
    }
    return ticket;
}

Stream::Ticket Connection::get_2d(const wire::Tensor & tensor, const Range & range, uint64_t offset, uint64_t size,
                                  uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure() || dest.empty()) {
        std::ranges::fill(dest, std::byte{0});
        return {};
    }
    append_held(idle_writes_.take_overlapping(range));
    post(Command::get_tensor_2d, wire::Tensor2dRequest{tensor, offset, size, n_copies, stride_tensor});
    return stream_.expect(dest);
}

bool Connection::copy(const wire::Tensor & src, const Range & from, const wire::Tensor & dst, const Range & to) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure()) {
        return true;  // there is nothing to copy and nobody to tell; the caller's fallback would do no better
    }
    append_held(idle_writes_.take_overlapping(from));
    append_held(idle_writes_.take_overlapping(to));
    post(Command::copy_tensor, wire::CopyTensorRequest{src, dst});
    uint8_t done = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&done, sizeof done)));
    return done != 0 || stream_.failure();
}

void Connection::relay(Connection & source, const wire::Tensor & src, const Range & from, const wire::Tensor & dst,
                       const Range & to) {
    {
        Lock lock(stream_.mutex());
        before_other_command(lock);
        if (stream_.failure() || from.end == from.begin) {
            return;
        }
        if (!relays_.empty()) {
            flush(lock);  // what the last relay feeds starts now, while the source works on this one
        }
    }
    std::vector<std::byte> bytes(from.end - from.begin);
    const auto ticket = source.get(src, from, 0, bytes);
    Lock lock(stream_.mutex());
    if (stream_.failure()) {
        lock.unlock();
        source.await(ticket);
        return;
    }
    append_held(idle_writes_.take_overlapping(to));
    // Held back from its header on: a server does not wait long for the rest of a message.
    const uint64_t begin = stream_.position();
    post(Command::set_tensor, wire::SetTensorRequest{dst, 0, 0}, bytes.size());
    stream_.append_hole(begin, std::move(bytes));
    relays_.push_back({source.shared_from_this(), ticket, begin});
}

ggml_status Connection::launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure()) {
        report();
        return GGML_STATUS_FAILED;
    }
    auto & kept = kept_[device];
    const auto known = graph.uid == 0 ? kept.end() : kept.find(graph.uid);
    KeptGraph * launched = nullptr;
    if (known != kept.end()) {
        launched = &known->second;
        append_held(idle_writes_.take_for_launch(launched->touched));
        post(Command::graph_recompute, wire::GraphRecomputeRequest{device, graph.uid});
    } else {
        EncodedGraph encoded = encode_graph(graph, device, handle_of);
        if (encoded.n_nodes == 0) {
            return GGML_STATUS_SUCCESS;
        }
        append_held(idle_writes_.take_for_launch(encoded.touched));
        const MutableBytes at = stream_.append(sizeof(wire::RequestHeader) + encoded.payload.size());
        store(at.data(), wire::RequestHeader{Command::graph_compute, encoded.payload.size()});
        std::memcpy(at.data() + sizeof(wire::RequestHeader), encoded.payload.data(), encoded.payload.size());
        if (graph.uid != 0) {
            if (kept.size() >= wire::max_kept_graphs) {
                kept.clear();  // the server does the same
            }
            launched = &kept.emplace(graph.uid, KeptGraph{std::move(encoded.touched)}).first->second;
        }
    }
    last_launch_ = launched;
    last_launch_time_ = Clock::now();
    if (launched != nullptr && launched->read_at_once) {
        held_launch_ = launched;
    } else if (relays_.empty()) {
        flush(lock);
    }
    return stream_.failure() ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS;
}

void Connection::synchronize() {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (!relays_.empty()) {
        flush(lock);  // a launch may wait behind a relay
    }
    // Writes may stay in the batch: they can only be seen through a later command.
    await_locked(lock, stream_.last_ticket());
}

void Connection::await(Stream::Ticket ticket) {
    Lock lock(stream_.mutex());
    await_locked(lock, ticket);
}

Stream::Ticket Connection::last_ticket() {
    Lock lock(stream_.mutex());
    return stream_.last_ticket();
}

// Any command but a get after a launch: the guess that a get would come was wrong, so the launch goes now.
void Connection::before_other_command(Lock & lock) {
    if (last_launch_ != nullptr) {
        last_launch_->read_at_once = false;
        last_launch_ = nullptr;
    }
    if (held_launch_ != nullptr) {
        held_launch_ = nullptr;
        if (relays_.empty()) {
            flush(lock);
        }
    }
}

// Fills every hole before `position`. Gives up the lock while it waits for another server. Terminates for any pattern
// of relays: it waits only for commands that came earlier in the program's order than the hole.
void Connection::settle(Lock & lock, uint64_t position) {
    while (!relays_.empty() && relays_.front().hole < position) {
        const Relay relay = relays_.front();
        lock.unlock();
        relay.source->await(relay.ticket);
        lock.lock();
        if (!relays_.empty() && relays_.front().hole == relay.hole) {
            stream_.fill(relay.hole);
            relays_.pop_front();
        }
    }
}

void Connection::flush(Lock & lock) {
    const uint64_t position = stream_.position();
    settle(lock, position);
    if (!stream_.flush(lock, position)) {
        report();
    }
}

void Connection::await_locked(Lock & lock, Stream::Ticket ticket) {
    settle(lock, ticket.position);
    if (!stream_.await(lock, ticket)) {
        report();
    }
}

void Connection::append_write(const wire::Tensor & tensor, uint64_t offset, ConstBytes data, bool cache) {
    post(Command::set_tensor, wire::SetTensorRequest{tensor, static_cast<uint8_t>(cache ? 1 : 0), offset}, data.size());
    std::memcpy(stream_.append(data.size()).data(), data.data(), data.size());
}

void Connection::write(Lock & lock, const wire::Tensor & tensor, uint64_t offset, ConstBytes data, bool cache) {
    if (data.size() <= copy_limit) {
        append_write(tensor, offset, data, cache);
        if (stream_.unsent() >= batch_limit) {
            flush(lock);
        }
        return;
    }
    settle(lock, UINT64_MAX);  // first: it may give up the lock, and the payload must follow its header
    post(Command::set_tensor, wire::SetTensorRequest{tensor, static_cast<uint8_t>(cache ? 1 : 0), offset}, data.size());
    if (!stream_.send(lock, data)) {
        report();
    }
}

void Connection::append_held(const std::vector<HeldWrite> & writes) {
    for (const HeldWrite & held : writes) {
        append_write(held.tensor, held.offset, held.data, false);
    }
}

bool Connection::found_by_hash(Lock & lock, const wire::Tensor & tensor, uint64_t offset, ConstBytes data) {
    if (misses_in_a_row_ >= hopeless) {
        return false;
    }
    post(Command::set_tensor_hash, wire::SetTensorHashRequest{tensor, offset, wire::fnv1a(data)});
    uint8_t found = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&found, sizeof found)));
    misses_in_a_row_ = found != 0 ? 0 : misses_in_a_row_ + 1;
    return found != 0 && !stream_.failure();
}

}  // namespace caravan::client
