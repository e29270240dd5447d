// A Stream of the client and its peer, played by the test.
#pragma once

#include <gtest/gtest.h>

#include <atomic>
#include <cstring>
#include <memory>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "client/session/stream.h"
#include "net/socket.h"
#include "support/wire_peer.h"

namespace caravan::client::stream_line {

using test::bytes_of;
using test::WirePeer;

inline constexpr std::chrono::nanoseconds long_timeout = test::patience;

// Counts the calls in which the transport accepted bytes.
class Counting final : public net::Transport {
public:
    Counting(std::unique_ptr<net::Transport> inner, std::atomic<int> & sends) : inner_(std::move(inner)), sends_(sends) {}
    Result<size_t> send(std::span<const ConstBytes> parts) override {
        auto sent = inner_->send(parts);
        sends_ += sent && *sent > 0 ? 1 : 0;
        return sent;
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override { return inner_->receive(parts); }
    Result<bool> wait(net::Interest interest, TimePoint deadline, microseconds spin) override {
        return inner_->wait(interest, deadline, spin);
    }
    void wake() override { inner_->wake(); }
    net::TransportKind kind() const override { return inner_->kind(); }

private:
    std::unique_ptr<net::Transport> inner_;
    std::atomic<int> & sends_;
};

// A stream and its peer.
struct Line {
    explicit Line(std::chrono::nanoseconds timeout) {
        auto pair = test::socket_pair();
        net::set_non_blocking(pair.near.get(), true);
        peer = WirePeer(std::move(pair.far));
        stream.emplace(std::make_unique<Counting>(*net::make_socket_transport(std::move(pair.near)), sends), timeout,
                       microseconds{20});
    }

    Stream::Lock lock() { return Stream::Lock(stream->mutex()); }
    void append(std::string_view text) { std::memcpy(stream->append(text.size()).data(), text.data(), text.size()); }
    Stream::Ticket expect(std::string & dest) { return stream->expect(mutable_bytes(dest.data(), dest.size())); }

    std::atomic<int> sends = 0;
    WirePeer peer;
    std::optional<Stream> stream;
};

struct StreamTest : testing::Test, Line {
    StreamTest() : Line(long_timeout) {}
};

struct ImpatientStreamTest : testing::Test, Line {
    ImpatientStreamTest() : Line(milliseconds(40)) {}
};

// A text of a native server: a refusal, a failed launch or the end of the session.
inline std::vector<std::byte> text_reply(wire::ReplyKind kind, std::string_view text) {
    using test::operator+;
    return bytes_of(uint64_t{text.size()} | uint64_t{static_cast<uint8_t>(kind)} << wire::reply_kind_shift) + bytes_of(text);
}

}  // namespace caravan::client::stream_line
