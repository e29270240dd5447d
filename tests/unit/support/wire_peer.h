// The peer of a connection under test: sends and receives bytes and messages over a blocking socket. No call waits longer
// than `patience`, so a broken test fails instead of hanging.
#pragma once

#include <gtest/gtest.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/time.h>

#include <cstring>
#include <optional>
#include <string>
#include <vector>

#include "base/clock.h"
#include "net/socket.h"
#include "platform/unique_fd.h"
#include "support/byte_strings.h"
#include "wire/stock.h"

// GCC defines a macro; Clang has a feature test.
#if defined(__SANITIZE_THREAD__)
#define CARAVAN_TEST_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define CARAVAN_TEST_TSAN 1
#endif
#endif

namespace caravan::test {

inline constexpr seconds patience{20};

struct SocketPair {
    UniqueFd near, far;
};

inline SocketPair socket_pair() {
    int ends[2] = {-1, -1};
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    return {UniqueFd(ends[0]), UniqueFd(ends[1])};
}

struct Message {
    wire::Command command{};
    std::vector<std::byte> payload;

    template <class T>
    T as(size_t offset = 0) const {
        EXPECT_GE(payload.size(), offset + sizeof(T)) << wire::command_name(command);
        return payload.size() < offset + sizeof(T) ? T{} : load<T>(payload.data() + offset);
    }
    std::vector<std::byte> from(size_t offset) const {
        return payload.size() < offset ? std::vector<std::byte>() : std::vector(payload.begin() + offset, payload.end());
    }
};

inline std::vector<std::byte> message(wire::Command command, const std::vector<std::byte> & payload = {}) {
    return bytes_of(wire::RequestHeader{command, payload.size()}) + payload;
}

class WirePeer {
public:
    WirePeer() = default;
    explicit WirePeer(UniqueFd fd) : fd_(std::move(fd)) {
        net::set_non_blocking(fd_.get(), false);
        const timeval limit{patience.count(), 0};
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        ::setsockopt(fd_.get(), SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit);
    }

    int fd() const { return fd_.get(); }
    void close() { fd_.reset(); }
    void end_sending() { ::shutdown(fd_.get(), SHUT_WR); }

    bool send(ConstBytes bytes) {
        while (!bytes.empty()) {
            const ssize_t sent = ::send(fd_.get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);
            if (sent <= 0) {
                return false;
            }
            bytes = bytes.subspan(static_cast<size_t>(sent));
        }
        return true;
    }

    bool receive(MutableBytes bytes) {
        while (!bytes.empty()) {
            const ssize_t got = ::recv(fd_.get(), bytes.data(), bytes.size(), 0);
            if (got <= 0) {
                return false;
            }
            bytes = bytes.subspan(static_cast<size_t>(got));
        }
        return true;
    }

    std::vector<std::byte> receive(size_t size) {
        std::vector<std::byte> out(size);
        EXPECT_TRUE(receive(MutableBytes(out))) << "did not receive " << size << " bytes";
        return out;
    }

    // As a server: receives the next request; std::nullopt at the end of the connection.
    std::optional<Message> next_or_end() {
        wire::RequestHeader header{};
        if (!receive(mutable_bytes(&header, sizeof header))) {
            return std::nullopt;
        }
        Message out{header.command, std::vector<std::byte>(header.size)};
        return receive(MutableBytes(out.payload)) ? std::optional(std::move(out)) : std::nullopt;
    }

    Message next() {
        auto got = next_or_end();
        EXPECT_TRUE(got) << "received no request";
        return got ? std::move(*got) : Message{};
    }

    bool reply_bytes(const std::vector<std::byte> & payload) {
        return send(bytes_of(uint64_t{payload.size()}) + payload);
    }
    template <class T>
    bool reply(const T & payload) {
        return reply_bytes(bytes_of(payload));
    }

    // As a client: sends a request.
    bool request(wire::Command command, const std::vector<std::byte> & payload = {}) {
        return send(message(command, payload));
    }
    template <class T>
    bool ask(wire::Command command, const T & payload) {
        return request(command, bytes_of(payload));
    }
    // As a client: receives the payload of the next reply; std::nullopt if the connection ended.
    std::optional<std::vector<std::byte>> receive_reply() {
        uint64_t size = 0;
        if (!receive(mutable_bytes(&size, sizeof size)) || size > (1 << 28)) {
            return std::nullopt;
        }
        std::vector<std::byte> payload(size);
        return receive(MutableBytes(payload)) ? std::optional(std::move(payload)) : std::nullopt;
    }
    template <class T>
    T receive_reply_as() {
        const auto got = receive_reply();
        EXPECT_TRUE(got && got->size() == sizeof(T)) << "reply of " << (got ? got->size() : 0) << " bytes";
        return got && got->size() == sizeof(T) ? load<T>(got->data()) : T{};
    }

    bool at_end() {
        std::byte byte;
        return ::recv(fd_.get(), &byte, 1, 0) == 0;
    }

    // The number of bytes that have arrived but were not read. Exact for local sockets, where send() delivers at once.
    size_t unread() const {
        int count = 0;
        EXPECT_EQ(::ioctl(fd_.get(), FIONREAD, &count), 0);
        return static_cast<size_t>(count);
    }

private:
    UniqueFd fd_;
};

}  // namespace caravan::test
