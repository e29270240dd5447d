#include "client/session/connection.h"

#include <algorithm>

#include "base/config.h"
#include "base/log.h"
#include "base/size_text.h"
#include "client/session/end_program.h"
#include "client/session/reply_check.h"
#include "client/weights/known_digests.h"
#include "net/hello.h"
#include "net/opening.h"

namespace caravan::client {
namespace {

using wire::Command;

// Writes up to this size are copied into the batch; longer ones are sent from the caller's memory.
constexpr size_t copy_limit = 64 * 1024;
// A batch of this size is sent even if no command needs it.
constexpr size_t batch_limit = 1024 * 1024;

// A stall of this length is logged, although it may be a long computation.
constexpr seconds stall_threshold{10};
// A connection that was idle for longer is probed before a launch is reported as successful.
constexpr seconds idle_before_probe{1};

std::atomic<uint64_t> next_id = 0;

// False if the server is not full but only starting a worker.
bool report_queue_place(const net::Endpoint & endpoint, const wire::AdmissionAnswer & place) {
    if (place.reason == wire::AdmissionAnswer::Reason::starting) {
        log_debug("{}: waiting for a worker process to start", endpoint.text());
        return false;
    }
    notify_user(formatted("RPC server {} is full: {}; waiting for up to {} s (GGML_RPC_TIMEOUT_S)", endpoint.text(),
                          net::describe(place), answer_timeout().count()));
    return true;
}

// Logs the loss of a server once. With GGML_RPC_ON_LOSS=exit it ends the program instead; no thread returns from here then,
// so the program receives no failure before it ends.
void report_loss(const net::Endpoint & endpoint, const Error & error, LossReport & report) {
    if (report.is_needless) {
        return;
    }
    if (on_loss() == OnLoss::exit) {
        end_program(formatted("RPC server {} is lost: {} (GGML_RPC_ON_LOSS=exit)", endpoint.text(), error.text));
    }
    if (!report.is_logged.exchange(true)) {
        log_error("RPC server {} is lost: {}. Calls to its devices fail; load the model again once the server is back",
                  endpoint.text(), error.text);
    }
}

// Reports a loss also while the program is idle.
std::unique_ptr<net::Transport> watched(std::unique_ptr<net::Transport> transport, const net::Endpoint & endpoint,
                                        std::shared_ptr<LossReport> report) {
    transport->when_lost([endpoint, report = std::move(report)](const Error & error) {
        report_loss(endpoint, error, *report);
    });
    return transport;
}

}  // namespace

Connection::Connection(net::Endpoint endpoint, Purpose purpose, std::unique_ptr<net::Transport> transport, bool native)
    : endpoint_(std::move(endpoint)),
      purpose_(purpose),
      loss_report_(std::make_shared<LossReport>(purpose == Purpose::queries)),
      stream_(watched(std::move(transport), endpoint_, loss_report_), answer_timeout(), poll_time()),
      loading_(endpoint_.text(), stderr_terminal()),
      id_(next_id++) {
    if (purpose == Purpose::session) {
        stream_.log_stalls(endpoint_.text(), stall_threshold);
    }
    if (native) {
        auto commands = make_native_commands(stream_);
        native_ = commands.get();
        commands_ = std::move(commands);
    } else {
        commands_ = make_stock_commands(stream_);
    }
}

Connection::~Connection() {
    if (!stream_.failure()) {
        loading_.end();
    }
    loss_report_->is_needless = true;  // a loss no longer affects the program
    finish_recording();
    relays_.await_sources();
    log_debug("{}: session closed, {} sends", endpoint_.text(), stream_.counts().sends);
}

Result<std::shared_ptr<Connection>> Connection::open(const net::Endpoint & endpoint, Purpose purpose) {
    const bool is_session = purpose == Purpose::session;
    bool has_waited = false;
    TimePoint report_again{};  // limits how much a server can log
    const net::Queueing queueing{.until = Clock::now() + answer_timeout(),
                                 .on_wait = [&](const wire::AdmissionAnswer & place) {
                                     if (Clock::now() >= report_again && report_queue_place(endpoint, place)) {
                                         has_waited = true;
                                         report_again = Clock::now() + seconds(1);
                                     }
                                 }};
    auto opened = net::open_client(endpoint, is_session, Clock::now() + connect_timeout(), queueing);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    if (has_waited) {
        notify_user(formatted("RPC server {} has a free session: continuing", endpoint.text()));
    }
    const std::string kind(opened->transport->kind());
    if (is_session && net::built_with_rdma) {
        log_info("RPC server {}: transport {}{}", endpoint.text(), kind,
                 opened->why_not_rdma.empty() ? "" : formatted(" ({})", opened->why_not_rdma));
    } else {
        log_debug("{}: connected over {} for {}", endpoint.text(), kind, is_session ? "a session" : "queries");
    }
    std::shared_ptr<Connection> connection(
        new Connection(endpoint, purpose, std::move(opened->transport), opened->peer_is_native));
    if (is_session) {
        connection->start_recording();
    }
    return connection;
}

void Connection::start_recording() {
    if (is_native()) {
        recorder_.synchronize_clock([&] { return query<uint64_t>(static_cast<Command>(wire::NativeCommand::clock)); });
    }
    if (recorder_.is_traced()) {
        stream_.trace_as(endpoint_.text());
    }
    recorder_.opened(stream_.counts());
}

void Connection::finish_recording() {
    recorder_.finish({.endpoint = endpoint_.text(),
                      .dialect = is_native() ? "native" : "stock",
                      .transport = std::string(stream_.transport_kind()),
                      .whole = {},
                      .since_load = {},
                      .weights = loading_.total(),
                      .round_trip_ns = {},
                      .served_ns = {}},
                     stream_.counts(), [&](wire::SpansAnswer & reply) {
                         Lock lock(stream_.mutex());
                         commands_->post(static_cast<Command>(wire::NativeCommand::spans));
                         await_locked(lock, stream_.expect(mutable_bytes(&reply, sizeof reply)));
                     });
}

void Connection::report_failure() {
    if (stream_.failure() && purpose_ == Purpose::session) {
        any_failed_ = true;
        report_loss(endpoint_, *stream_.failure(), *loss_report_);
    }
}

bool Connection::failed() {
    Lock lock(stream_.mutex());
    return stream_.failure().has_value();
}

Result<> Connection::with_endpoint(Result<> sound) const {
    return sound ? sound : fail(sound.error().code, "{}: {}", endpoint_.text(), sound.error().text);
}

// Waits for all expected replies.
Result<> Connection::await_replies(Lock & lock) {
    await_locked(lock, stream_.last_ticket());
    if (stream_.failure()) {
        return fail(stream_.failure()->code, "{}: {}", endpoint_.text(), stream_.failure()->text);
    }
    return {};
}

// A reply of one byte. Any value but 0 and 1 ends the session: its meaning is unknown.
bool Connection::decode_flag(uint8_t reply) {
    if (auto sound = check_flag(reply); !sound) {
        stream_.close(std::move(sound.error()));
        report_failure();
        return false;
    }
    return reply != 0;
}

Result<uint32_t> Connection::device_count() {
    const auto count = query<uint32_t>(Command::device_count);
    const auto sound = count ? with_endpoint(check_device_count(*count)) : Result<>();
    return sound ? count : std::unexpected(sound.error());
}

Result<std::vector<DeviceConstants>> Connection::constants(uint32_t count) {
    constexpr uint32_t devices_per_batch = 16;  // the replies fit into the server's socket buffer
    std::vector<DeviceConstants> all(count);
    Lock lock(stream_.mutex());
    begin_command(lock);
    for (uint32_t device = 0; device < count; ++device) {
        DeviceConstants & of = all[device];
        const wire::DeviceRequest request{device};
        commands_->post(Command::get_alignment, request);
        stream_.expect(mutable_bytes(&of.alignment, sizeof of.alignment));
        commands_->post(Command::get_max_size, request);
        stream_.expect(mutable_bytes(&of.max_size, sizeof of.max_size));
        if (is_native()) {
            commands_->post(wire::command_device_facts, request);
            stream_.expect(mutable_bytes(&of.facts, sizeof of.facts));
        }
        if ((device + 1) % devices_per_batch == 0 || device + 1 == count) {
            if (auto replied = await_replies(lock); !replied) {
                return std::unexpected(replied.error());
            }
        }
    }
    for (const DeviceConstants & of : all) {
        const auto sound = check_alignment(of.alignment).and_then([&] { return check_max_size(of.max_size); });
        if (!sound) {
            return std::unexpected(with_endpoint(sound).error());
        }
    }
    return all;
}

Result<DeviceMemory> Connection::memory(uint32_t device) {
    const auto reply = query<wire::DeviceMemoryAnswer>(Command::get_device_memory, wire::DeviceRequest{device});
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (auto sound = with_endpoint(check_memory(*reply)); !sound) {
        return std::unexpected(sound.error());
    }
    return DeviceMemory{std::min<uint64_t>(reply->free, reply->total), reply->total};
}

Result<std::vector<uint64_t>> Connection::alloc_sizes(std::span<const wire::GetAllocSizeRequest> requests) {
    std::vector<uint64_t> sizes(requests.size());
    Lock lock(stream_.mutex());
    begin_command(lock);
    for (size_t i = 0; i < requests.size(); ++i) {
        commands_->post(Command::get_alloc_size, requests[i]);
        stream_.expect(mutable_bytes(&sizes[i], sizeof sizes[i]));
    }
    auto replied = await_replies(lock);
    for (const uint64_t size : sizes) {
        replied = replied.and_then([&] { return with_endpoint(check_alloc_size(size)); });
    }
    return replied ? Result<std::vector<uint64_t>>(std::move(sizes)) : std::unexpected(replied.error());
}

Result<std::vector<uint8_t>> Connection::supports(uint32_t device, std::span<const wire::GraphTensor> tensors) {
    std::vector<std::byte> difference;
    wire::encode_difference({}, tensors, difference);
    const auto n_nodes = std::ranges::count_if(tensors, [](const auto & tensor) { return tensor.is_node != 0; });
    std::vector<uint8_t> replies(static_cast<size_t>(n_nodes));
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    native_->post_native(wire::NativeCommand::supports,
                         wire::SupportsRequest{device, static_cast<uint32_t>(tensors.size())}, difference.size());
    std::ranges::copy(difference, stream_.append(difference.size()).begin());
    await_locked(lock, stream_.expect(mutable_bytes(replies.data(), replies.size()), true));
    if (auto refusal = stream_.take_refusal()) {
        log_debug("{}: the server refused to report op support: {}", endpoint_.text(), *refusal);
        return std::vector<uint8_t>();
    }
    std::ranges::for_each(replies, [&](uint8_t reply) { decode_flag(reply); });
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    return replies;
}

Result<RemoteBuffer> Connection::alloc_buffer(uint32_t device, uint64_t size, uint64_t alignment) {
    auto reply = query<wire::AllocBufferAnswer>(Command::alloc_buffer, wire::AllocBufferRequest{device, size});
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->buffer == 0) {
        return fail(Errc::no_memory, "{}: the server cannot allocate {} on its device {}", endpoint_.text(), size_text(size),
                    device);
    }
    const auto base = query<uint64_t>(Command::buffer_get_base, wire::BufferRequest{reply->buffer});
    if (!base) {
        return std::unexpected(base.error());
    }
    auto sound = check_buffer(*reply, *base, size, alignment);
    Lock lock(stream_.mutex());
    if (sound && buffers_.contains(reply->buffer)) {
        sound = fail(Errc::protocol, "the server used the handle {:#x} for two buffers", uint64_t{reply->buffer});
    }
    if (!sound) {
        return fail(sound.error().code, "{}: {}", endpoint_.text(), sound.error().text);
    }
    const RemoteBuffer buffer{reply->buffer, *base, reply->size};
    const auto range_of = [](const RemoteBuffer & of) { return Range{of.base, of.base + of.size}; };
    if (std::ranges::any_of(buffers_, [&](const auto & other) {
            return range_of(other.second.remote).overlaps(range_of(buffer));
        })) {
        begin_command(lock);
        append_held(idle_writes_.stop());
    }
    buffers_[buffer.handle].remote = buffer;
    return buffer;
}

void Connection::free_buffer(const RemoteBuffer & buffer) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    idle_writes_.forget({buffer.base, buffer.base + buffer.size});
    if (stream_.failure()) {
        return;
    }
    buffers_.erase(buffer.handle);
    undelivered_.record_write({buffer.base, buffer.base + buffer.size}, true);
    commands_->post(Command::free_buffer, wire::BufferRequest{buffer.handle});
    commands_->forget_graphs();
    flush(lock);
}

void Connection::clear_buffer(const RemoteBuffer & buffer, uint8_t value) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    idle_writes_.forget({buffer.base, buffer.base + buffer.size});
    undelivered_.record_write({buffer.base, buffer.base + buffer.size}, true);
    if (!stream_.failure()) {
        commands_->post(Command::buffer_clear, wire::BufferClearRequest{buffer.handle, value});
    }
}

void Connection::init_tensor(const wire::Region & region) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (!stream_.failure()) {
        commands_->initialize(region);
    }
}

void Connection::memset(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                        uint8_t value) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (!stream_.failure() && size > 0) {
        append_held(idle_writes_.take_overlapping(range));
        undelivered_.record_write(range, true);
        commands_->fill(region, offset, size, value);
    }
}

void Connection::set(const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data,
                     bool is_weight) {
    const bool hashed = is_weight && data.size() > (native_ != nullptr ? wire::find_threshold : wire::hash_threshold);
    Lock lock(stream_.mutex());
    begin_command(lock, is_weight && !lookup_.overlaps(range));
    if (stream_.failure() || data.empty()) {
        return;
    }
    undelivered_.record_write(range, is_weight || !is_absent(region.type, data));
    if (idle_writes_.hold(range, region, offset, data)) {
        return;
    }
    append_held(idle_writes_.take_overlapping(range));
    if (!is_weight) {
        const TimePoint begin = recorder_.launches() == 0 ? Clock::now() : TimePoint();
        write(lock, region, offset, data, false);
        idle_writes_.record_sent(range);
        if (recorder_.launches() == 0) {
            record_unmarked_write(region.buffer, data.size(), begin);
        }
        return;
    }
    const auto buffer = buffers_.find(region.buffer);
    loading_.begin(region.buffer, buffer == buffers_.end() ? 0 : buffer->second.remote.size, Clock::now());
    if (!hashed || !find_on_server(lock, region, range, offset, data)) {
        write(lock, region, offset, data, hashed);
        loading_.add(data.size(), false, Clock::now());
    }
}

void Connection::record_unmarked_write(uint64_t handle, uint64_t bytes, TimePoint begin) {
    const auto buffer = buffers_.find(handle);
    if (buffer == buffers_.end()) {
        return;
    }
    Buffer & written = buffer->second;
    written.first = written.unmarked == 0 ? begin : written.first;
    written.last = Clock::now();
    written.unmarked += bytes;
    has_unmarked_writes_.store(true, std::memory_order_relaxed);
}

void Connection::mark_as_weights(const RemoteBuffer & buffer) {
    Lock lock(stream_.mutex());
    const auto found = buffers_.find(buffer.handle);
    if (found == buffers_.end() || found->second.unmarked == 0) {
        return;
    }
    Buffer & written = found->second;
    loading_.begin(buffer.handle, buffer.size, written.first);
    loading_.add(written.unmarked, false, written.last);
    written.unmarked = 0;
}

void Connection::set_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                        uint64_t n_copies, uint64_t stride_tensor, const std::byte * data, uint64_t stride_data) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (stream_.failure() || size == 0 || n_copies == 0) {
        return;
    }
    append_held(idle_writes_.take_overlapping(range));
    commands_->write_2d(region, offset, size, n_copies, stride_tensor);
    const MutableBytes packed = stream_.append(size * n_copies);
    for (uint64_t i = 0; i < n_copies; ++i) {
        std::memcpy(packed.data() + i * size, data + i * stride_data, size);
    }
    undelivered_.record_write(range, !is_absent(region.type, packed));
    if (stream_.unsent() >= batch_limit) {
        flush(lock);
    }
}

Stream::Ticket Connection::get(const wire::Region & region, const Range & range, uint64_t offset, MutableBytes dest,
                               Stream::Absent absent, Reader reader) {
    Lock lock(stream_.mutex());
    const ResultRead read{region, range, offset, dest.size()};
    if (reader == Reader::program && prediction_.is_prefetched(read) && stream_.has_deferred()) {
        prediction_.take_prefetched();
        stream_.set_destination(dest, absent);
        prediction_.record_read(stream_.last_ticket().number);
        return stream_.last_ticket();
    }
    discard_prefetched();
    resolve_finds(lock);
    if (stream_.failure() || dest.empty() || undelivered_.overlaps(range)) {
        std::ranges::fill(dest, static_cast<std::byte>(absent));
        return {};
    }
    append_held(idle_writes_.take_overlapping(range));
    commands_->read(region, offset, dest.size());
    const auto ticket = stream_.expect_data(dest, absent);
    if (reader == Reader::program) {
        prediction_.record_read(ticket.number);
        prediction_.record_habit(read, Clock::now());
    } else {
        prediction_.record_habit(std::nullopt, Clock::now());
    }
    if (relays_.empty()) {
        flush(lock);
    }
    return ticket;
}

// The program's next command does not read the prefetched result.
void Connection::discard_prefetched() {
    if (prediction_.has_prefetched()) {
        prediction_.discard_prefetched();
        stream_.discard();
    }
}

Stream::Ticket Connection::get_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                                  uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (stream_.failure() || dest.empty() || undelivered_.overlaps(range)) {
        std::ranges::fill(dest, static_cast<std::byte>(Stream::Absent::nan));
        return {};
    }
    append_held(idle_writes_.take_overlapping(range));
    commands_->read_2d(region, offset, size, n_copies, stride_tensor);
    return stream_.expect_data(dest, Stream::Absent::nan);
}

bool Connection::copy(const wire::Region & src, const Range & from, const wire::Region & dst, const Range & to) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (stream_.failure() || (from.begin == from.end && to.begin == to.end)) {
        return true;  // nothing to copy, or no server; the caller's fallback would fail as well
    }
    append_held(idle_writes_.take_overlapping(from));
    append_held(idle_writes_.take_overlapping(to));
    undelivered_.record_write(to, !undelivered_.overlaps(from));
    if (!commands_->copy(src, dst)) {
        return true;
    }
    uint8_t done = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&done, sizeof done)));
    return decode_flag(done) || stream_.failure();
}

ggml_status Connection::launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (stream_.failure()) {
        report_failure();
        return GGML_STATUS_FAILED;
    }
    lookup_.save_digests();
    if (!is_reachable(lock)) {
        return GGML_STATUS_FAILED;
    }
    if (auto failure = stream_.take_launch_failure()) {
        return fail_launch(lock, *failure);
    }
    prediction_.begin_launch();
    if (!undelivered_.empty() && undelivered_.touched_by(collect_graph(graph, handle_of).footprint)) {
        log_error("RPC server {}: graph not launched: its input was to come from a server that is lost", endpoint_.text());
        return GGML_STATUS_FAILED;
    }
    const Launch prepared = commands_->prepare(device, graph, handle_of);
    if (prepared.is_empty) {
        return GGML_STATUS_SUCCESS;
    }
    if (loading_.is_under_way()) {
        loading_.end();
        recorder_.loaded(stream_.counts());
    }
    recorder_.count_launch();
    has_unmarked_writes_.store(false, std::memory_order_relaxed);
    append_held(idle_writes_.take_for_launch(prepared.footprint()));
    std::ranges::copy(prepared.bytes, stream_.append(prepared.bytes.size()).begin());
    stream_.count_launch();
    prediction_.launched(prepared.kept, Clock::now());
    if (const ResultRead * read = prediction_.predicted_read(); read != nullptr && !undelivered_.overlaps(read->range)) {
        const ResultRead prefetched = *read;
        prediction_.prefetch(prefetched);
        return confirm_launch(lock, prefetched);
    }
    const auto output = prediction_.should_confirm() ? first_bytes_of_output(graph, handle_of) : std::nullopt;
    if (output) {
        return confirm_launch(lock, *output);
    }
    if (!prediction_.hold() && relays_.empty()) {
        flush(lock);
    }
    return stream_.failure() ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS;
}

ggml_status Connection::fail_launch(Lock & lock, const std::string & why) {
    is_failure_investigated_ = false;
    log_error("RPC server {}: graph not computed: {}", endpoint_.text(), why);
    lock.unlock();
    probe_link_sources();
    return GGML_STATUS_FAILED;
}

std::optional<ResultRead> Connection::first_bytes_of_output(const ggml_cgraph & graph, const HandleOf & handle_of) const {
    for (int i = graph.n_nodes; i-- > 0;) {
        const ggml_tensor & node = *graph.nodes[i];
        const ggml_backend_buffer_t buffer = node.view_src != nullptr ? node.view_src->buffer : node.buffer;
        const uint64_t handle = buffer == nullptr ? 0 : handle_of(buffer);
        if ((node.flags & GGML_TENSOR_FLAG_OUTPUT) != 0 && !ggml_is_empty(&node) && handle != 0) {
            const size_t size = std::min<size_t>(ggml_nbytes(&node), 16);
            const uint64_t begin = reinterpret_cast<uint64_t>(node.data);
            return ResultRead{encode_region(node, handle), {begin, begin + size}, 0, size};
        }
    }
    return std::nullopt;
}

// The launch is in the batch. Sends it together with the read and waits until the result begins to arrive.
ggml_status Connection::confirm_launch(Lock & lock, const ResultRead & read) {
    append_held(idle_writes_.take_overlapping(read.range));
    commands_->read(read.region, read.offset, read.size);
    const auto ticket = stream_.expect_deferred(read.size);
    const TimePoint begin = Clock::now();
    relays_.fill_before(lock, ticket.position);
    if (!stream_.await_first_bytes(lock)) {
        report_failure();
    }
    prediction_.result_arrived(begin, Clock::now());
    if (!prediction_.has_prefetched()) {
        stream_.discard();  // these bytes only confirm the launch
    }
    if (stream_.failure()) {
        return GGML_STATUS_FAILED;
    }
    if (const auto failure = stream_.take_launch_failure()) {
        discard_prefetched();
        return fail_launch(lock, *failure);
    }
    return GGML_STATUS_SUCCESS;
}

// Called before a launch: its status is the last chance to report a lost server to the program.
bool Connection::is_reachable(Lock & lock) {
    if (stream_.idle_time() > idle_before_probe && relays_.empty()) {
        // A machine that was switched off closes no connection, so an idle one is probed with a round trip.
        commands_->post(Command::device_count);
        uint32_t count = 0;
        await_locked(lock, stream_.expect(mutable_bytes(&count, sizeof count)));
    } else if (!stream_.confirm(lock)) {
        report_failure();
    }
    return !stream_.failure();
}

void Connection::synchronize() {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (!relays_.empty()) {
        flush(lock);  // a launch may wait behind a relay
    }
    // Writes may stay in the batch: only a later command can observe them.
    await_locked(lock, stream_.last_ticket());
    investigate_launch_failure(lock);
}

void Connection::await(Stream::Ticket ticket) {
    Lock lock(stream_.mutex());
    await_locked(lock, ticket);
    investigate_launch_failure(lock);
}

// A launch failed after it was reported as successful, and the program is about to receive absent data. If the cause is a
// lost server at the other end of a link, this logs that loss, or ends the program.
void Connection::investigate_launch_failure(Lock & lock) {
    if (stream_.has_launch_failure() && !std::exchange(is_failure_investigated_, true)) {
        lock.unlock();
        probe_link_sources();
        lock.lock();
    }
}

Stream::Ticket Connection::last_ticket() {
    Lock lock(stream_.mutex());
    Stream::Ticket last = stream_.last_ticket();
    if (prediction_.has_prefetched()) {  // the program does not know of it
        --last.number;
    }
    return last;
}

// Called before any command but a read after a launch: a launch that was held back for that read is sent now.
void Connection::begin_command(Lock & lock, bool keeps_finds) {
    if (!keeps_finds) {
        resolve_finds(lock);
    }
    discard_prefetched();
    if (prediction_.end_launch() && relays_.empty()) {
        flush(lock);
    }
}

void Connection::flush(Lock & lock) {
    const uint64_t position = stream_.position();
    relays_.fill_before(lock, position);
    if (!stream_.flush(lock, position)) {
        report_failure();
    }
}

void Connection::await_locked(Lock & lock, Stream::Ticket ticket) {
    if (ticket.number >= stream_.last_ticket().number) {
        discard_prefetched();
    }
    prediction_.record_await(ticket.number);
    relays_.fill_before(lock, ticket.position);
    if (!stream_.await(lock, ticket)) {
        report_failure();
    }
}

void Connection::append_write(const wire::Region & region, uint64_t offset, ConstBytes data, bool keep) {
    commands_->write(region, offset, data.size(), keep);
    std::memcpy(stream_.append(data.size()).data(), data.data(), data.size());
}

void Connection::write(Lock & lock, const wire::Region & region, uint64_t offset, ConstBytes data, bool keep) {
    if (data.size() <= copy_limit) {
        append_write(region, offset, data, keep);
        if (stream_.unsent() >= batch_limit) {
            flush(lock);
        }
        return;
    }
    // Before the header: this may release the lock, and the payload must follow its header.
    relays_.fill_before(lock, UINT64_MAX);
    commands_->write(region, offset, data.size(), keep);
    if (!stream_.send(lock, data)) {
        report_failure();
    }
}

void Connection::append_held(const std::vector<HeldWrite> & writes) {
    for (const HeldWrite & held : writes) {
        append_write(held.region, held.offset, held.data, false);
    }
}

// Whether to hash a weight and query the server for it. A native server reports whether it keeps weights.
bool Connection::should_look_up(Lock & lock) {
    if (native_ != nullptr && !lookup_.is_cache_known()) {
        commands_->post(static_cast<Command>(wire::NativeCommand::facts));
        wire::SessionFacts facts{};
        await_locked(lock, stream_.expect(mutable_bytes(&facts, sizeof facts)));
        lookup_.set_cache(decode_flag(facts.has_cache));
    }
    return lookup_.is_worthwhile();
}

// A weight whose reply is not awaited counts as loaded once that reply was processed.
bool Connection::find_on_server(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset,
                               ConstBytes data) {
    if (!should_look_up(lock)) {
        return false;
    }
    if (native_ != nullptr) {
        auto known = lookup_.digest_of(data);
        native_->find(region, offset, data.size(), known.digest);
        if (lookup_.expects_hit() && known.source) {
            auto & find = lookup_.add({region, range, offset, data.size(), std::move(*known.source)});
            find.ticket = stream_.expect(mutable_bytes(&find.found, sizeof find.found));
            flush(lock);
            resolve_finds(lock, WeightLookup::max_pending);
            return true;
        }
    } else {
        commands_->post(Command::set_tensor_hash,
                        wire::SetTensorHashRequest{stock_tensor(region), offset, wire::fnv1a(data)});
    }
    uint8_t found = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&found, sizeof found)));
    const bool is_hit = decode_flag(found);
    lookup_.record(is_hit);
    if (!is_hit || stream_.failure()) {
        return false;
    }
    loading_.add(data.size(), true, Clock::now());
    return true;
}

// Until at most `left` are pending. Another thread may do the same while the lock is released.
void Connection::resolve_finds(Lock & lock, size_t left) {
    while (lookup_.pending() > left) {
        const uint64_t taken = lookup_.taken();
        await_locked(lock, lookup_.oldest().ticket);
        relays_.fill_before(lock, UINT64_MAX);  // so that the write below is queued before the lock is released
        if (lookup_.taken() != taken) {
            continue;
        }
        const WeightLookup::PendingFind find = lookup_.take_oldest();
        const bool is_hit = decode_flag(find.found);
        lookup_.record(is_hit);
        if (stream_.failure()) {
            continue;
        }
        if (is_hit) {
            loading_.add(find.size, true, Clock::now());
            continue;
        }
        const auto weights = MappedWeights::map(find.source);
        if (!weights) {
            stream_.close(weights.error());
            report_failure();
            return;
        }
        write(lock, find.region, find.offset, weights->bytes(), true);
        loading_.add(find.size, false, Clock::now());
    }
}

}  // namespace caravan::client
