#include "client/connection.h"

#include <algorithm>

#include "base/config.h"
#include "base/log.h"
#include "base/size_text.h"
#include "client/end_program.h"
#include "client/known_digests.h"
#include "client/reply_check.h"
#include "client/trace.h"
#include "net/opening.h"

namespace caravan::client {
namespace {

using wire::Command;

// Up to this size a write is copied into the batch; a longer one leaves from the caller's memory, uncopied.
constexpr size_t copy_limit = 64 * 1024;
// A batch that has grown so far leaves even if nothing asks for it.
constexpr size_t batch_limit = 1024 * 1024;
// A get that comes sooner than this after a launch counts as "at once".
constexpr microseconds at_once{100};
// The server is asked for so many weights without waiting for the first answer.
constexpr size_t max_pending_finds = 64;
// So many weights in a row that the server did not have: it will not have the rest, so stop hashing.
constexpr int hopeless = 8;
// After more new graphs than this in a row, and if the last result came sooner than that, a round trip that only confirms a
// launch costs too much.
constexpr int max_new_graphs = 8;
constexpr milliseconds short_step{5};

// So long a silence is worth a line in the log, though it may be a long computation.
constexpr seconds long_silence{10};
// Nothing was sent or awaited for so long: a server is asked something before a launch counts as successful.
constexpr seconds long_idle{1};

std::atomic<uint64_t> next_id = 0;

// False: the server is not full, only not ready yet.
bool report_place(const net::Endpoint & endpoint, const wire::AdmissionAnswer & place) {
    if (place.reason == wire::AdmissionAnswer::Reason::starting) {
        log_debug("{}: waiting for a worker process to start", endpoint.text());
        return false;
    }
    tell_person(formatted("RPC server {} is full: {}; waiting for up to {} s (GGML_RPC_TIMEOUT_S)", endpoint.text(),
                          net::describe(place), answer_timeout().count()));
    return true;
}

// Logs the loss of a server once, or ends the program if it wishes that: then no thread returns from here, so that none
// gives the program a failure before it ends.
void report_loss(const net::Endpoint & endpoint, const Error & error, LossReport & report) {
    if (report.is_needless) {
        return;
    }
    if (on_loss() == OnLoss::exit) {
        end_program(formatted("RPC server {} is lost: {} (GGML_RPC_ON_LOSS=exit)", endpoint.text(), error.text));
    }
    if (!report.is_logged.exchange(true)) {
        log_error("RPC server {} is lost: {}. Its devices answer with failure from now on; load the model again once "
                  "the server is back",
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

// Data that a lost server should have sent. No tensor of numbers that anybody computed looks like this.
bool is_absent(uint32_t type, ConstBytes data) {
    const auto has_all_bits = [](std::byte b) { return b == static_cast<std::byte>(Stream::Absent::nan); };
    return !data.empty() && has_all_bits(data.front()) && has_all_bits(data.back()) && !is_integer(type) &&
           std::ranges::all_of(data, has_all_bits);
}

}  // namespace

Connection::Connection(net::Endpoint endpoint, Purpose purpose, std::unique_ptr<net::Transport> transport, bool native)
    : endpoint_(std::move(endpoint)),
      purpose_(purpose),
      loss_report_(std::make_shared<LossReport>(purpose == Purpose::questions)),
      stream_(watched(std::move(transport), endpoint_, loss_report_), answer_timeout(), poll_time()),
      loading_(endpoint_.text(), stderr_terminal()), opened_ns_(Trace::now_ns()), id_(next_id++) {
    if (purpose == Purpose::session) {
        stream_.note_silences(endpoint_.text(), long_silence);
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
    loss_report_->is_needless = true;  // the program has all that it wanted
    end_records();
    for (const Relay & relay : relays_) {
        relay.source->await(relay.ticket);  // its answer goes into our memory
    }
    log_debug("{}: session closed, {} sends", endpoint_.text(), stream_.counts().sends);
}

Result<std::shared_ptr<Connection>> Connection::open(const net::Endpoint & endpoint, Purpose purpose) {
    const bool is_session = purpose == Purpose::session;
    bool has_waited = false;
    TimePoint report_again{};  // a server may not fill the log
    const net::Queueing queueing{.until = Clock::now() + answer_timeout(),
                                 .on_wait = [&](const wire::AdmissionAnswer & place) {
                                     if (Clock::now() >= report_again && report_place(endpoint, place)) {
                                         has_waited = true;
                                         report_again = Clock::now() + seconds(1);
                                     }
                                 }};
    auto opened = net::open_client(endpoint, is_session, Clock::now() + connect_timeout(), queueing);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    if (has_waited) {
        tell_person(formatted("RPC server {} has room now: going on", endpoint.text()));
    }
    const std::string kind(opened->transport->kind());
    if (is_session && net::built_with_rdma) {
        log_info("RPC server {}: transport {}{}{}", endpoint.text(), kind, opened->why_not_rdma.empty() ? "" : ", because ",
                 opened->why_not_rdma);
    } else {
        log_debug("{}: connected over {} for {}", endpoint.text(), kind, is_session ? "a session" : "questions");
    }
    std::shared_ptr<Connection> connection(
        new Connection(endpoint, purpose, std::move(opened->transport), opened->peer_is_native));
    if (is_session) {
        connection->begin_records();
    }
    return connection;
}

void Connection::report() {
    if (stream_.failure() && purpose_ == Purpose::session) {
        any_failed_ = true;
        report_loss(endpoint_, *stream_.failure(), *loss_report_);
    }
}

bool Connection::failed() {
    Lock lock(stream_.mutex());
    return stream_.failure().has_value();
}

Result<> Connection::checked(Result<> sound) const {
    return sound ? sound : fail(sound.error().code, "{}: {}", endpoint_.text(), sound.error().text);
}

// The last one that was expected, and all before it.
Result<> Connection::await_answer(Lock & lock) {
    await_locked(lock, stream_.last_ticket());
    if (stream_.failure()) {
        return fail(stream_.failure()->code, "{}: {}", endpoint_.text(), stream_.failure()->text);
    }
    return {};
}

// A reply of one byte. One that is neither 0 nor 1 ends the session: what it stands for is not known.
bool Connection::has_flag(uint8_t answer) {
    if (auto sound = check_flag(answer); !sound) {
        stream_.break_off(std::move(sound.error()));
        report();
        return false;
    }
    return answer != 0;
}

Result<uint32_t> Connection::device_count() {
    const auto count = ask<uint32_t>(Command::device_count);
    const auto sound = count ? checked(check_device_count(*count)) : Result<>();
    return sound ? count : std::unexpected(sound.error());
}

Result<std::vector<DeviceConstants>> Connection::constants(uint32_t count) {
    constexpr uint32_t at_once = 16;  // devices: a server's answers fit into its socket
    std::vector<DeviceConstants> all(count);
    Lock lock(stream_.mutex());
    before_other_command(lock);
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
        if ((device + 1) % at_once == 0 || device + 1 == count) {
            if (auto answered = await_answer(lock); !answered) {
                return std::unexpected(answered.error());
            }
        }
    }
    for (const DeviceConstants & of : all) {
        if (auto sound = checked(check_alignment(of.alignment).and_then([&] { return check_max_size(of.max_size); })); !sound) {
            return std::unexpected(sound.error());
        }
    }
    return all;
}

Result<DeviceMemory> Connection::memory(uint32_t device) {
    const auto answer = ask<wire::DeviceMemoryAnswer>(Command::get_device_memory, wire::DeviceRequest{device});
    if (!answer) {
        return std::unexpected(answer.error());
    }
    if (auto sound = checked(check_memory(*answer)); !sound) {
        return std::unexpected(sound.error());
    }
    return DeviceMemory{std::min<uint64_t>(answer->free, answer->total), answer->total};
}

Result<std::vector<uint64_t>> Connection::alloc_sizes(std::span<const wire::GetAllocSizeRequest> requests) {
    std::vector<uint64_t> sizes(requests.size());
    Lock lock(stream_.mutex());
    before_other_command(lock);
    for (size_t i = 0; i < requests.size(); ++i) {
        commands_->post(Command::get_alloc_size, requests[i]);
        stream_.expect(mutable_bytes(&sizes[i], sizeof sizes[i]));
    }
    auto answered = await_answer(lock);
    for (const uint64_t size : sizes) {
        answered = answered.and_then([&] { return checked(check_alloc_size(size)); });
    }
    return answered ? Result<std::vector<uint64_t>>(std::move(sizes)) : std::unexpected(answered.error());
}

Result<std::vector<uint8_t>> Connection::supports(uint32_t device, std::span<const wire::GraphTensor> tensors) {
    std::vector<std::byte> difference;
    wire::encode_difference({}, tensors, difference);
    const auto n_nodes = std::ranges::count_if(tensors, [](const auto & tensor) { return tensor.is_node != 0; });
    std::vector<uint8_t> answers(static_cast<size_t>(n_nodes));
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    native_->post_native(wire::NativeCommand::supports,
                         wire::SupportsRequest{device, static_cast<uint32_t>(tensors.size())}, difference.size());
    std::ranges::copy(difference, stream_.append(difference.size()).begin());
    await_locked(lock, stream_.expect(mutable_bytes(answers.data(), answers.size()), true));
    if (auto refusal = stream_.take_refusal()) {
        log_debug("{}: a question about an op is refused: {}", endpoint_.text(), *refusal);
        return std::vector<uint8_t>();
    }
    std::ranges::for_each(answers, [&](uint8_t answer) { has_flag(answer); });
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    return answers;
}

Result<RemoteBuffer> Connection::alloc_buffer(uint32_t device, uint64_t size, uint64_t alignment) {
    auto answer = ask<wire::AllocBufferAnswer>(Command::alloc_buffer, wire::AllocBufferRequest{device, size});
    if (!answer) {
        return std::unexpected(answer.error());
    }
    if (answer->buffer == 0) {
        return fail(Errc::no_memory, "{}: the server cannot allocate {} on its device {}", endpoint_.text(), size_text(size),
                    device);
    }
    const auto base = ask<uint64_t>(Command::buffer_get_base, wire::BufferRequest{answer->buffer});
    if (!base) {
        return std::unexpected(base.error());
    }
    auto sound = check_buffer(*answer, *base, size, alignment);
    Lock lock(stream_.mutex());
    if (sound && buffers_.contains(answer->buffer)) {
        sound = fail(Errc::protocol, "the server gave two buffers the handle {:#x}", uint64_t{answer->buffer});
    }
    if (!sound) {
        return fail(sound.error().code, "{}: {}", endpoint_.text(), sound.error().text);
    }
    const RemoteBuffer buffer{answer->buffer, *base, answer->size};
    const auto range_of = [](const RemoteBuffer & of) { return Range{of.base, of.base + of.size}; };
    if (std::ranges::any_of(buffers_, [&](const auto & other) {
            return range_of(other.second.remote).overlaps(range_of(buffer));
        })) {
        before_other_command(lock);
        append_held(idle_writes_.stop());
    }
    buffers_[buffer.handle].remote = buffer;
    return buffer;
}

void Connection::free_buffer(const RemoteBuffer & buffer) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    idle_writes_.forget({buffer.base, buffer.base + buffer.size});
    if (stream_.failure()) {
        return;
    }
    buffers_.erase(buffer.handle);
    note_write({buffer.base, buffer.base + buffer.size}, true);
    commands_->post(Command::free_buffer, wire::BufferRequest{buffer.handle});
    commands_->forget_graphs();
    last_launch_ = nullptr;
    flush(lock);
}

void Connection::clear_buffer(const RemoteBuffer & buffer, uint8_t value) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    idle_writes_.forget({buffer.base, buffer.base + buffer.size});
    note_write({buffer.base, buffer.base + buffer.size}, true);
    if (!stream_.failure()) {
        commands_->post(Command::buffer_clear, wire::BufferClearRequest{buffer.handle, value});
    }
}

void Connection::init_tensor(const wire::Region & region) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (!stream_.failure()) {
        commands_->initialize(region);
    }
}

void Connection::memset(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                        uint8_t value) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (!stream_.failure() && size > 0) {
        append_held(idle_writes_.take_overlapping(range));
        note_write(range, true);
        commands_->fill(region, offset, size, value);
    }
}

void Connection::set(const wire::Region & region, const Range & range, uint64_t offset, ConstBytes data,
                     bool is_weight) {
    const bool hashed = is_weight && data.size() > (native_ != nullptr ? wire::find_threshold : wire::hash_threshold);
    Lock lock(stream_.mutex());
    const bool is_apart = std::ranges::none_of(finds_, [&](const PendingFind & find) { return find.range.overlaps(range); });
    before_other_command(lock, is_weight && is_apart);
    if (stream_.failure() || data.empty()) {
        return;
    }
    note_write(range, is_weight || !is_absent(region.type, data));
    if (idle_writes_.hold(range, region, offset, data)) {
        return;
    }
    append_held(idle_writes_.take_overlapping(range));
    if (!is_weight) {
        const TimePoint begin = launches_ == 0 ? Clock::now() : TimePoint();
        write(lock, region, offset, data, false);
        idle_writes_.note_sent(range);
        if (launches_ == 0) {
            note_unmarked(region.buffer, data.size(), begin);
        }
        return;
    }
    const auto buffer = buffers_.find(region.buffer);
    loading_.begin(region.buffer, buffer == buffers_.end() ? 0 : buffer->second.remote.size, Clock::now());
    if (!hashed || !found_by_hash(lock, region, range, offset, data)) {
        write(lock, region, offset, data, hashed);
        loading_.add(data.size(), false, Clock::now());
    }
}

void Connection::note_unmarked(uint64_t handle, uint64_t bytes, TimePoint begin) {
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
    before_other_command(lock);
    if (stream_.failure() || size == 0 || n_copies == 0) {
        return;
    }
    append_held(idle_writes_.take_overlapping(range));
    commands_->write_2d(region, offset, size, n_copies, stride_tensor);
    const MutableBytes packed = stream_.append(size * n_copies);
    for (uint64_t i = 0; i < n_copies; ++i) {
        std::memcpy(packed.data() + i * size, data + i * stride_data, size);
    }
    note_write(range, !is_absent(region.type, packed));
    if (stream_.unsent() >= batch_limit) {
        flush(lock);
    }
}

Stream::Ticket Connection::get(const wire::Region & region, const Range & range, uint64_t offset, MutableBytes dest,
                               Stream::Absent absent, Reader reader) {
    Lock lock(stream_.mutex());
    if (reader == Reader::program && foreseen_ == ResultRead{region, range, offset, dest.size()} && stream_.expects_later()) {
        foreseen_.reset();
        stream_.set_destination(dest, absent);
        last_launch_ = nullptr;
        last_read_ = stream_.last_ticket().number;
        return stream_.last_ticket();
    }
    discard_foreseen();
    settle_finds(lock);
    if (stream_.failure() || dest.empty() || is_undelivered(range)) {
        std::ranges::fill(dest, static_cast<std::byte>(absent));
        return {};
    }
    append_held(idle_writes_.take_overlapping(range));
    commands_->read(region, offset, dest.size());
    const auto ticket = stream_.expect_data(dest, absent);
    if (reader == Reader::program) {
        last_read_ = ticket.number;
        note_read(ResultRead{region, range, offset, dest.size()});
    } else {
        note_read();
    }
    if (relays_.empty()) {
        flush(lock);
    }
    return ticket;
}

void Connection::note_read(std::optional<ResultRead> read) {
    if (last_launch_ != nullptr) {
        const bool is_at_once = Clock::now() - last_launch_time_ < at_once;
        last_launch_->habit = {is_at_once, is_at_once ? std::move(read) : std::nullopt};
    }
    last_launch_ = held_launch_ = nullptr;
}

// The program does not read the result that was requested for it, or not next.
void Connection::discard_foreseen() {
    if (foreseen_) {
        foreseen_.reset();
        stream_.discard();
        if (last_launch_ != nullptr) {
            last_launch_->habit.read.reset();
        }
    }
}

Stream::Ticket Connection::get_2d(const wire::Region & region, const Range & range, uint64_t offset, uint64_t size,
                                  uint64_t n_copies, uint64_t stride_tensor, MutableBytes dest) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure() || dest.empty() || is_undelivered(range)) {
        std::ranges::fill(dest, static_cast<std::byte>(Stream::Absent::nan));
        return {};
    }
    append_held(idle_writes_.take_overlapping(range));
    commands_->read_2d(region, offset, size, n_copies, stride_tensor);
    return stream_.expect_data(dest, Stream::Absent::nan);
}

bool Connection::copy(const wire::Region & src, const Range & from, const wire::Region & dst, const Range & to) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure() || (from.begin == from.end && to.begin == to.end)) {
        return true;  // there is nothing to copy, or nobody to tell; the caller's fallback would do no better
    }
    append_held(idle_writes_.take_overlapping(from));
    append_held(idle_writes_.take_overlapping(to));
    note_write(to, !is_undelivered(from));
    if (!commands_->copy(src, dst)) {
        return true;
    }
    uint8_t done = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&done, sizeof done)));
    return has_flag(done) || stream_.failure();
}

ggml_status Connection::launch(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (stream_.failure()) {
        report();
        return GGML_STATUS_FAILED;
    }
    if (has_hashed_) {
        has_hashed_ = false;
        KnownDigests::instance().save();
    }
    if (!is_reachable(lock)) {
        return GGML_STATUS_FAILED;
    }
    if (auto failure = stream_.take_launch_failure()) {
        return fail_launch(lock, *failure);
    }
    reads_overlap_ = last_read_ > last_awaited_;
    last_read_ = 0;
    if (!undelivered_.empty()) {
        const Footprint footprint = collect_graph(graph, handle_of).footprint;
        if (std::ranges::any_of(undelivered_, [&](const Range & range) { return touches(footprint.touched, range); })) {
            log_error("RPC server {} does not compute a graph: its input should have come from a server that is lost",
                      endpoint_.text());
            return GGML_STATUS_FAILED;
        }
    }
    const Launch prepared = commands_->prepare(device, graph, handle_of);
    if (prepared.is_empty) {
        return GGML_STATUS_SUCCESS;
    }
    if (loading_.is_under_way()) {
        loading_.end();
        at_load_ = tally();
    }
    ++launches_;
    has_unmarked_writes_.store(false, std::memory_order_relaxed);
    append_held(idle_writes_.take_for_launch(prepared.footprint()));
    std::ranges::copy(prepared.bytes, stream_.append(prepared.bytes.size()).begin());
    stream_.note_launch();
    KeptGraph * launched = prepared.kept;
    last_launch_ = launched;
    last_launch_time_ = Clock::now();
    new_graphs_in_a_row_ = launched != nullptr && launched->habit.read ? 0 : new_graphs_in_a_row_ + 1;
    if (!reads_overlap_) {
        if (launched != nullptr && launched->habit.read && !is_undelivered(launched->habit.read->range)) {
            foreseen_ = launched->habit.read;
            return confirm_launch(lock, *foreseen_);
        }
        const auto output = is_worth_a_round_trip(launched) ? first_bytes_of_output(graph, handle_of) : std::nullopt;
        if (output) {
            const auto status = confirm_launch(lock, *output);
            stream_.discard();
            return status;
        }
    }
    if (launched != nullptr && launched->habit.read_at_once) {
        held_launch_ = launched;
    } else if (relays_.empty()) {
        flush(lock);
    }
    return stream_.failure() ? GGML_STATUS_FAILED : GGML_STATUS_SUCCESS;
}

ggml_status Connection::fail_launch(Lock & lock, const std::string & why) {
    cause_is_sought_ = false;
    log_error("RPC server {} could not compute a graph: {}", endpoint_.text(), why);
    lock.unlock();
    suspect_links();
    return GGML_STATUS_FAILED;
}

// A graph that was never launched before has no known read. Its output confirms the launch at the price of a round trip.
bool Connection::is_worth_a_round_trip(const KeptGraph * launched) {
    const bool is_short_step = last_result_time_ < short_step && new_graphs_in_a_row_ > max_new_graphs;
    return launched != nullptr && !launched->habit.read && !is_short_step;
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

// The launch is in the batch. Sends it with the read and waits until the result begins to arrive.
ggml_status Connection::confirm_launch(Lock & lock, const ResultRead & read) {
    append_held(idle_writes_.take_overlapping(read.range));
    commands_->read(read.region, read.offset, read.size);
    const auto ticket = stream_.expect_data_later(read.size);
    const TimePoint begin = Clock::now();
    settle(lock, ticket.position);
    if (!stream_.await_begin(lock)) {
        report();
    }
    last_launch_time_ = Clock::now();
    last_result_time_ = last_launch_time_ - begin;
    if (stream_.failure()) {
        return GGML_STATUS_FAILED;
    }
    if (const auto failure = stream_.take_launch_failure()) {
        discard_foreseen();
        return fail_launch(lock, *failure);
    }
    return GGML_STATUS_SUCCESS;
}

// Before a launch, whose success the program believes: nothing that comes later can tell it of a failure.
bool Connection::is_reachable(Lock & lock) {
    if (stream_.idle_time() > long_idle && relays_.empty()) {
        // A machine that was switched off closes no connection. One round trip, once after a pause.
        commands_->post(Command::device_count);
        uint32_t count = 0;
        await_locked(lock, stream_.expect(mutable_bytes(&count, sizeof count)));
    } else if (!stream_.confirm(lock)) {
        report();
    }
    return !stream_.failure();
}

bool Connection::is_undelivered(const Range & range) const {
    return std::ranges::any_of(undelivered_, [&](const Range & other) { return other.overlaps(range); });
}

// The program, or another server, writes a region.
void Connection::note_write(const Range & range, bool is_delivered) {
    if (!undelivered_.empty()) {
        std::erase_if(undelivered_, [&](const Range & old) { return old.begin >= range.begin && old.end <= range.end; });
    }
    if (!is_delivered) {
        undelivered_.push_back(range);
    }
}

void Connection::synchronize() {
    Lock lock(stream_.mutex());
    before_other_command(lock);
    if (!relays_.empty()) {
        flush(lock);  // a launch may wait behind a relay
    }
    // Writes may stay in the batch: they can only be seen through a later command.
    await_locked(lock, stream_.last_ticket());
    find_cause(lock);
}

void Connection::await(Stream::Ticket ticket) {
    Lock lock(stream_.mutex());
    await_locked(lock, ticket);
    find_cause(lock);
}

// A launch failed after its success was reported, and the program is about to be given absent data. If that is since the
// server at the other end of a link is gone, the log names it now, or the program ends.
void Connection::find_cause(Lock & lock) {
    if (stream_.has_launch_failure() && !std::exchange(cause_is_sought_, true)) {
        lock.unlock();
        suspect_links();
        lock.lock();
    }
}

Stream::Ticket Connection::last_ticket() {
    Lock lock(stream_.mutex());
    Stream::Ticket last = stream_.last_ticket();
    if (foreseen_) {  // not visible to the program
        --last.number;
    }
    return last;
}

// Any command but a get after a launch: the guess that a get would come was wrong, so the launch goes now.
void Connection::before_other_command(Lock & lock, bool keeps_finds) {
    if (!keeps_finds) {
        settle_finds(lock);
    }
    discard_foreseen();
    if (last_launch_ != nullptr) {
        last_launch_->habit = {};
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
            if (is_absent(GGML_TYPE_F32, relay.bytes)) {  // launches that wait behind it were reported as successful
                stream_.note_launch_failure(formatted("its input did not come from {}", relay.source->endpoint_.text()));
            }
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
    if (ticket.number >= stream_.last_ticket().number) {
        discard_foreseen();
    }
    last_awaited_ = std::max(last_awaited_, ticket.number);
    settle(lock, ticket.position);
    if (!stream_.await(lock, ticket)) {
        report();
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
    settle(lock, UINT64_MAX);  // first: it may give up the lock, and the payload must follow its header
    commands_->write(region, offset, data.size(), keep);
    if (!stream_.send(lock, data)) {
        report();
    }
}

void Connection::append_held(const std::vector<HeldWrite> & writes) {
    for (const HeldWrite & held : writes) {
        append_write(held.region, held.offset, held.data, false);
    }
}

// Is it worth hashing a weight? A native server says whether it keeps any, a stock one does not.
bool Connection::may_be_found(Lock & lock) {
    if (native_ != nullptr && !has_cache_) {
        commands_->post(static_cast<Command>(wire::NativeCommand::facts));
        wire::SessionFacts facts{};
        await_locked(lock, stream_.expect(mutable_bytes(&facts, sizeof facts)));
        has_cache_ = has_flag(facts.has_cache);
    }
    return has_cache_.value_or(true) && misses_in_a_row_ < hopeless;
}

// After a find, the next is expected to be one too, and not waited for: should the server not have it after all, the
// bytes can be had from their file again. Such a weight is counted as loaded when its answer is looked at.
bool Connection::found_by_hash(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset,
                               ConstBytes data) {
    if (!may_be_found(lock)) {
        return false;
    }
    if (native_ != nullptr) {
        auto known = KnownDigests::instance().digest_of(data);
        native_->find(region, offset, data.size(), known.digest);
        if (last_was_found_ && known.source) {
            has_hashed_ = true;
            PendingFind & find = finds_.emplace_back(PendingFind{region, range, offset, data.size(), std::move(*known.source)});
            find.ticket = stream_.expect(mutable_bytes(&find.found, sizeof find.found));
            flush(lock);
            settle_finds(lock, max_pending_finds);
            return true;
        }
    } else {
        commands_->post(Command::set_tensor_hash,
                        wire::SetTensorHashRequest{stock_tensor(region), offset, wire::fnv1a(data)});
    }
    has_hashed_ = true;
    uint8_t found = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&found, sizeof found)));
    note_find(has_flag(found));
    if (!last_was_found_ || stream_.failure()) {
        return false;
    }
    loading_.add(data.size(), true, Clock::now());
    return true;
}

void Connection::note_find(bool found) {
    last_was_found_ = found;
    misses_in_a_row_ = found ? 0 : misses_in_a_row_ + 1;
}

// Until at most `left` are pending. Another thread may be at the same while the lock is given up.
void Connection::settle_finds(Lock & lock, size_t left) {
    while (finds_.size() > left) {
        const uint64_t number = settled_finds_;
        await_locked(lock, finds_.front().ticket);
        settle(lock, UINT64_MAX);  // so that what is written below is queued before the lock is given up
        if (settled_finds_ != number) {
            continue;
        }
        const PendingFind find = std::move(finds_.front());
        finds_.pop_front();
        ++settled_finds_;
        note_find(has_flag(find.found));
        if (stream_.failure()) {
            continue;
        }
        if (last_was_found_) {
            loading_.add(find.size, true, Clock::now());
            continue;
        }
        const auto weights = MappedWeights::map(find.source);
        if (!weights) {
            stream_.break_off(weights.error());
            report();
            return;
        }
        write(lock, find.region, find.offset, weights->bytes(), true);
        loading_.add(find.size, false, Clock::now());
    }
}

}  // namespace caravan::client
