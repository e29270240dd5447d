// Shared code of the fuzz targets.
#pragma once

#include <sanitizer/asan_interface.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <cstdio>
#include <cstdlib>

#include "base/bytes.h"
#include "base/log.h"
#include "net/transport.h"
#include "platform/unique_fd.h"

namespace caravan::fuzz {

// Aborts, which is a finding, unless `holds`. `what` names the invariant.
inline void require(bool holds, const char * what) {
    if (!holds) {
        std::fprintf(stderr, "violated: %s\n", what);
        std::abort();
    }
}

// Discards log lines, and disables polling.
inline void be_quiet() {
    set_log_sink([](LogLevel, std::string_view) {});
    ::setenv("GGML_RPC_POLL_US", "0", 1);
}

inline ConstBytes input_bytes(const uint8_t * data, size_t size) { return const_bytes(data, size); }

// Removes a number from the front of `input`; 0 if there are too few bytes.
template <class T>
T take_number(ConstBytes & input) {
    T value{};
    if (input.size() >= sizeof value) {
        value = load<T>(input.data());
        input = input.subspan(sizeof value);
    }
    return value;
}

// A transport whose peer has sent the input and closed the connection. The input arrives in pieces of several sizes. Data
// that is sent must be readable memory, and is discarded.
class InputTransport final : public net::Transport {
public:
    explicit InputTransport(ConstBytes input) : rest_(input) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        size_t total = 0;
        for (const ConstBytes part : parts) {
            auto * begin = const_cast<std::byte *>(part.data());
            require(part.empty() || __asan_region_is_poisoned(begin, part.size()) == nullptr, "sent data is valid memory");
            total += part.size();
        }
        return total;
    }

    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        constexpr std::array<size_t, 4> pieces{4096, 1, 64, 7};
        if (rest_.empty()) {
            return fail(Errc::closed, "the peer has left");
        }
        size_t left = pieces[turn_++ % pieces.size()], total = 0;
        for (const MutableBytes part : parts) {
            const size_t step = std::min({part.size(), rest_.size(), left});
            std::copy_n(rest_.begin(), step, part.begin());
            rest_ = rest_.subspan(step);
            left -= step;
            total += step;
        }
        return total;
    }

    Result<bool> wait(net::Interest, TimePoint, microseconds) override { return true; }
    void wake() override {}
    net::TransportKind kind() const override { return net::TransportKind::tcp; }

private:
    ConstBytes rest_;
    size_t turn_ = 0;
};

// A socket pair. `far` has sent the input and ended sending. Data sent by `near` stays in the socket's buffer.
struct InputSocket {
    explicit InputSocket(ConstBytes input) {
        int ends[2] = {-1, -1};
        require(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, ends) == 0, "a socket pair exists");
        near.reset(ends[0]);
        far.reset(ends[1]);
        (void)!::send(far.get(), input.data(), input.size(), MSG_NOSIGNAL);  // -max_len is less than the buffer
        ::shutdown(far.get(), SHUT_WR);
    }
    UniqueFd near, far;
};

}  // namespace caravan::fuzz
