// The parts of a session, used without a Session: a context with one buffer of the CPU device, and its client.
#pragma once

#include <gtest/gtest.h>

#include "server/session/session_context.h"
#include "support/cpu_device.h"
#include "support/wire_tensor.h"

namespace caravan::test {

inline std::unique_ptr<net::Transport> transport_over(UniqueFd fd) {
    net::set_non_blocking(fd.get(), true);
    return *net::make_socket_transport(std::move(fd));
}

class SessionParts {
public:
    explicit SessionParts(uint64_t max_memory = server::MemoryBudget::no_limit, cache::Weights * weights = nullptr,
                          uint64_t buffer_size = 64 * 1024)
        : SessionParts(socket_pair(), max_memory, weights, buffer_size) {}

    // `count` floats at `offset` in the buffer.
    wire::Tensor f32(uint64_t offset, uint32_t count) const { return f32_tensor(1, {count, 1, 1, 1}, buffer, buffer + offset); }
    server::CheckedRegion region(const wire::Tensor & tensor, uint64_t offset, uint64_t size) {
        auto checked = server::checked_region(tensor, offset, size, context.buffers);
        EXPECT_TRUE(checked) << checked.error().text;
        return *checked;
    }
    server::CheckedRegion region(uint64_t offset, uint32_t count) { return region(f32(offset, count), 0, uint64_t{count} * 4); }
    // The first bytes of the buffer.
    std::vector<std::byte> bytes(size_t size) {
        const std::byte * begin = context.buffers.find(buffer)->base;
        return {begin, begin + size};
    }
    bool nothing_was_sent() {
        char byte = 0;
        return ::recv(peer.fd(), &byte, 1, MSG_DONTWAIT | MSG_PEEK) < 0;
    }

    std::unique_ptr<net::Transport> transport;
    WirePeer peer;
    server::SessionContext context;
    uint64_t buffer;

private:
    template <class Pair>
    SessionParts(Pair pair, uint64_t max_memory, cache::Weights * weights, uint64_t buffer_size)
        : transport(transport_over(std::move(pair.near))),
          peer(std::move(pair.far)),
          context(*transport, {}, cpu_devices(), weights, nullptr, max_memory, nullptr),
          buffer(context.buffers.allocate(cpu_devices().buffer_type(0), 0, buffer_size).value()) {}
};

}  // namespace caravan::test
