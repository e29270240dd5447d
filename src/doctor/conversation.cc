#include "doctor/conversation.h"

#include <algorithm>
#include <cstring>


namespace caravan::doctor {
namespace {

using wire::Command;

constexpr uint64_t mebibyte = 1 << 20;
constexpr size_t copy_limit = 64 * 1024;    // of client::Connection
constexpr size_t batch_limit = 1024 * 1024;

// Fails with Errc::timed_out after `limit`.
class BoundedTransport : public net::Transport {
public:
    BoundedTransport(std::unique_ptr<net::Transport> inner, milliseconds limit)
        : inner_(std::move(inner)), limit_(limit), end_(Clock::now() + limit) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        return has_expired() ? too_slow() : inner_->send(parts);
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        return has_expired() ? too_slow() : inner_->receive(parts);
    }
    Result<bool> wait(net::Interest interest, TimePoint deadline, microseconds spin) override {
        return inner_->wait(interest, std::min(deadline, end_), spin);
    }
    void wake() override { inner_->wake(); }
    net::TransportKind kind() const override { return inner_->kind(); }
    uint32_t queue_pairs() const override { return inner_->queue_pairs(); }
    uint32_t replacements() const override { return inner_->replacements(); }

private:
    bool has_expired() const { return Clock::now() >= end_; }
    std::unexpected<Error> too_slow() const {
        return fail(Errc::timed_out, "not finished after {} s", std::chrono::duration<double>(limit_).count());
    }

    const std::unique_ptr<net::Transport> inner_;
    const milliseconds limit_;
    const TimePoint end_;
};

}  // namespace

wire::Tensor Region::tensor() const {
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

Conversation::Conversation(std::unique_ptr<net::Transport> transport, const Limits & limits)
    : kind_(transport->kind()),
      queue_pairs_(transport->queue_pairs()),
      stream_(std::make_unique<BoundedTransport>(std::move(transport), limits.total), limits.reply,
              net::Polling::of_environment()),
      lock_(stream_.mutex()) {}

Result<> Conversation::check_connection() const {
    if (stream_.replacements() == 0) {
        return {};
    }
    return fail(Errc::io, "the connection over {} broke during the measurement, and continued over {}", text_of(kind_),
                text_of(stream_.transport_kind()));
}

Result<uint32_t> Conversation::device_count() {
    stream_.append(wire::frame_header(Command::device_count));
    return receive<uint32_t>();
}

Result<Region> Conversation::allocate(uint64_t free, uint64_t most) {
    for (uint64_t size = std::clamp(free / 4 / mebibyte * mebibyte, mebibyte, most); size >= mebibyte; size /= 2) {
        const auto buffer = request<wire::AllocBufferReply>(Command::alloc_buffer, wire::AllocBufferRequest{0, size});
        if (!buffer) {
            return std::unexpected(buffer.error());
        }
        if (buffer->buffer == 0) {
            continue;
        }
        const auto base = request<uint64_t>(Command::buffer_get_base, wire::BufferRequest{buffer->buffer});
        if (!base) {
            return std::unexpected(base.error());
        }
        Region region{*buffer, *base};
        region.buffer.size = size;
        return region;
    }
    return fail(Errc::no_memory, "device 0 has no memory for a buffer of 1 MiB");
}

Result<> Conversation::release(const Region & region) {
    post(Command::free_buffer, wire::BufferRequest{region.buffer.buffer});
    const auto freed = device_count();  // the reply comes after the buffer was freed
    return freed ? Result<>{} : std::unexpected(freed.error());
}

Result<> Conversation::write(const Region & region, uint64_t offset, ConstBytes data) {
    post(Command::set_tensor, wire::SetTensorRequest{region.tensor(), 0, offset}, data.size());
    if (data.size() > copy_limit) {
        return stream_.send(lock_, data);
    }
    std::memcpy(stream_.append(data.size()).data(), data.data(), data.size());
    return stream_.unsent() < batch_limit ? Result<>{} : stream_.flush(lock_, stream_.position());
}

client::Stream::Ticket Conversation::read(const Region & region, uint64_t offset, MutableBytes dest) {
    post(Command::get_tensor, wire::GetTensorRequest{region.tensor(), offset, dest.size()});
    return stream_.expect(dest);
}

}  // namespace caravan::doctor
