#include "doctor/measure.h"

#include <algorithm>
#include <array>
#include <vector>

#include "base/config.h"
#include "client/stream.h"
#include "wire/stock.h"

namespace caravan::doctor {
namespace {

using wire::Command;

constexpr size_t piece = 1 << 20;                // bytes of one write or read
constexpr uint64_t most_memory = 64 * piece;     // of the device
constexpr uint32_t warm_up = 20, most_round_trips = 200;
constexpr seconds most_latency_time{1};
constexpr size_t reads_under_way = 4;

double seconds_since(TimePoint start) { return std::chrono::duration<double>(Clock::now() - start).count(); }

// Ends what goes over it at a given time.
class BoundedTransport : public net::Transport {
public:
    BoundedTransport(std::unique_ptr<net::Transport> inner, milliseconds limit)
        : inner_(std::move(inner)), limit_(limit), end_(Clock::now() + limit) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        return is_over() ? too_slow() : inner_->send(parts);
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        return is_over() ? too_slow() : inner_->receive(parts);
    }
    Result<bool> wait(net::Interest interest, TimePoint deadline, microseconds spin) override {
        return inner_->wait(interest, std::min(deadline, end_), spin);
    }
    void wake() override { inner_->wake(); }
    std::string_view kind() const override { return inner_->kind(); }

private:
    bool is_over() const { return Clock::now() >= end_; }
    std::unexpected<Error> too_slow() const {
        return fail(Errc::timed_out, "still not done after {} s", std::chrono::duration<double>(limit_).count());
    }

    const std::unique_ptr<net::Transport> inner_;
    const milliseconds limit_;
    const TimePoint end_;
};

// client::Connection would do, but for its patience of minutes.
class Conversation {
public:
    Conversation(std::unique_ptr<net::Transport> transport, const Patience & patience)
        : stream_(std::make_unique<BoundedTransport>(std::move(transport), patience.whole), patience.answer, poll_time()),
          lock_(stream_.mutex()) {}

    std::string kind() const { return std::string(stream_.transport_kind()); }

    template <class Request>
    void post(Command command, const Request & request, size_t extra = 0) {
        const MutableBytes at = stream_.append(sizeof(wire::RequestHeader) + sizeof request);
        store(at.data(), wire::RequestHeader{command, sizeof request + extra});
        store(at.data() + sizeof(wire::RequestHeader), request);
    }
    Result<> send(ConstBytes payload) { return stream_.send(lock_, payload); }
    client::Stream::Ticket expect(MutableBytes dest) { return stream_.expect(dest); }
    Result<> await(client::Stream::Ticket ticket) { return stream_.await(lock_, ticket); }
    const std::optional<Error> & failure() const { return stream_.failure(); }

    template <class Answer, class Request>
    Result<Answer> ask(Command command, const Request & request) {
        post(command, request);
        return answer<Answer>();
    }
    Result<uint32_t> device_count() {
        store(stream_.append(sizeof(wire::RequestHeader)).data(), wire::RequestHeader{Command::device_count, 0});
        return answer<uint32_t>();
    }

private:
    template <class Answer>
    Result<Answer> answer() {
        Answer out{};
        if (auto done = await(expect(mutable_bytes(&out, sizeof out))); !done) {
            return std::unexpected(done.error());
        }
        return out;
    }

    client::Stream stream_;
    client::Stream::Lock lock_;
};

// A region of the server's memory, as a row of floats.
struct Region {
    wire::AllocBufferAnswer buffer{};
    uint64_t base = 0;

    wire::Tensor tensor() const {
        wire::Tensor out{};
        const auto bytes = static_cast<uint32_t>(buffer.size);
        out.id = 1;
        out.buffer = buffer.buffer;
        out.data = base;
        std::ranges::fill(out.ne, 1u);
        std::ranges::fill(out.nb, bytes);
        out.ne[0] = bytes / sizeof(float);
        out.nb[0] = sizeof(float);
        return out;
    }
};

Result<Region> allocate(Conversation & peer, uint64_t free) {
    Region region;
    for (uint64_t size = std::clamp<uint64_t>(free / 4 / piece * piece, piece, most_memory); size >= piece; size /= 2) {
        const auto answer = peer.ask<wire::AllocBufferAnswer>(Command::alloc_buffer, wire::AllocBufferRequest{0, size});
        if (!answer) {
            return std::unexpected(answer.error());
        }
        if (answer->buffer == 0) {
            continue;
        }
        const auto base = peer.ask<uint64_t>(Command::buffer_get_base, wire::BufferRequest{answer->buffer});
        if (!base) {
            return std::unexpected(base.error());
        }
        region.buffer = *answer;
        region.buffer.size = size;
        region.base = *base;
        return region;
    }
    return fail(Errc::no_memory, "device 0 has no memory for a buffer of 1 MiB");
}

Result<> measure_latency(Conversation & peer, Measured & out) {
    std::vector<double> times;
    const TimePoint end = Clock::now() + most_latency_time;
    for (uint32_t i = 0; i < warm_up + most_round_trips && (times.empty() || Clock::now() < end); ++i) {
        const TimePoint start = Clock::now();
        if (auto answer = peer.ask<uint64_t>(Command::get_alignment, wire::DeviceRequest{0}); !answer) {
            return std::unexpected(answer.error());
        }
        if (i >= warm_up) {
            times.push_back(seconds_since(start) * 1e6);
        }
    }
    std::ranges::sort(times);
    out.round_trips = static_cast<uint32_t>(times.size());
    out.median_us = times[times.size() / 2];
    out.p99_us = times[(times.size() * 99 + 99) / 100 - 1];
    return {};
}

Result<> measure_writes(Conversation & peer, const Region & region, milliseconds time, Measured & out) {
    const std::vector<std::byte> data(piece);
    const TimePoint start = Clock::now();
    uint64_t sent = 0;
    do {
        peer.post(Command::set_tensor, wire::SetTensorRequest{region.tensor(), 0, sent % region.buffer.size}, piece);
        if (auto done = peer.send(data); !done) {
            return done;
        }
        sent += piece;
    } while (Clock::now() < start + time);
    // Answered after all of it has been taken.
    if (auto answer = peer.ask<uint64_t>(Command::get_alignment, wire::DeviceRequest{0}); !answer) {
        return std::unexpected(answer.error());
    }
    out.to_server = static_cast<double>(sent) / seconds_since(start);
    return {};
}

Result<> measure_reads(Conversation & peer, const Region & region, milliseconds time, Measured & out) {
    std::vector<std::byte> data(reads_under_way * piece);  // not needed after a failure: it ends what is awaited
    std::array<client::Stream::Ticket, reads_under_way> tickets{};
    const TimePoint start = Clock::now();
    size_t asked = 0, read = 0;
    Result<> outcome;
    do {
        // One, and once that has come as many as fit into the time: a slow network must not be asked for too much.
        while (asked == 0 || (read > 0 && asked - read < reads_under_way && Clock::now() < start + time)) {
            peer.post(Command::get_tensor,
                      wire::GetTensorRequest{region.tensor(), asked * piece % region.buffer.size, piece});
            const size_t slot = asked++ % reads_under_way;
            tickets[slot] = peer.expect(MutableBytes(data).subspan(slot * piece, piece));
        }
        if (asked == read) {
            break;
        }
        outcome = peer.await(tickets[read++ % reads_under_way]);
    } while (outcome);
    if (outcome) {
        out.from_server = static_cast<double>(read * piece) / seconds_since(start);
    }
    return outcome;
}

Result<> measure_all(Conversation & peer, const Patience & patience, Measured & out) {
    const auto count = peer.device_count();
    if (!count || *count == 0) {
        return count ? Result<>{} : std::unexpected(count.error());
    }
    out.devices = *count;
    const auto memory = peer.ask<wire::DeviceMemoryAnswer>(Command::get_device_memory, wire::DeviceRequest{0});
    if (!memory) {
        return std::unexpected(memory.error());
    }
    out.device_free = memory->free;
    out.device_total = memory->total;
    // First: it makes a session of the connection, so latency is that of the process that computes.
    const auto region = allocate(peer, memory->free);
    if (peer.failure()) {
        return std::unexpected(region.error());
    }
    Result<> done = measure_latency(peer, out);
    if (!region) {
        return done ? std::unexpected(region.error()) : done;
    }
    done = done ? measure_writes(peer, *region, patience.bandwidth, out) : done;
    done = done ? measure_reads(peer, *region, patience.bandwidth, out) : done;
    if (!done) {
        return done;
    }
    peer.post(Command::free_buffer, wire::BufferRequest{region->buffer.buffer});
    const auto freed = peer.device_count();  // answered when it has been
    return freed ? Result<>{} : std::unexpected(freed.error());
}

}  // namespace

Measured measure(std::unique_ptr<net::Transport> transport, const Patience & patience) {
    Conversation peer(std::move(transport), patience);
    Measured out;
    out.transport = peer.kind();
    if (auto done = measure_all(peer, patience, out); !done) {
        out.failure = done.error().text;
    }
    return out;
}

}  // namespace caravan::doctor
