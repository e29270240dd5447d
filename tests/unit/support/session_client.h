// Clients of a Session that runs on its own thread, over a local socket, with the CPU device of this process.
#pragma once

#include <gtest/gtest.h>

#include <optional>
#include <thread>

#include "cache/weights.h"
#include "server/session/session.h"
#include "support/cpu_device.h"
#include "support/wire_tensor.h"

namespace caravan::test {

using server::Devices;
using server::MemoryBudget;
using server::Links;
using server::Session;
using wire::Command;

// Runs a session and talks to it in the stock dialect.
struct SessionClient {
    explicit SessionClient(ConstBytes already = {}, Devices & devices = cpu_devices(),
                    uint64_t max_memory = MemoryBudget::no_limit, cache::Weights * weights = nullptr, Links * links = nullptr,
                    server::StockPairing * pairing = nullptr) {
        auto pair = socket_pair();
        peer = WirePeer(std::move(pair.far));
        net::set_non_blocking(pair.near.get(), true);
        auto transport = *net::make_socket_transport(std::move(pair.near));
        server_ = std::thread([this, &devices, max_memory, weights, links, pairing, transport = std::move(transport),
                               first = std::vector(already.begin(), already.end())]() mutable {
            Session session(*transport, first, devices, weights, links, max_memory);
            session_ = &session;
            if (pairing != nullptr) {
                session.use_pairing(*pairing);
            }
            end_ = session.run();
            counters_ = session.counters();
            session_ = nullptr;
            transport.reset();
        });
    }
    ~SessionClient() { leave(); }

    // Waits for the session to end, and returns why it did.
    const Error & end() {
        if (server_.joinable()) {
            server_.join();
        }
        return end_;
    }
    const Error & leave() {
        if (peer.fd() >= 0) {
            peer.end_sending();
        }
        return end();
    }
    const server::SessionCounters & counters() { return end(), counters_; }

    // While the session serves a command or waits for one, as it does after the first reply.
    void limit_silence(seconds limit) { session_.load()->limit_silence(limit); }

    uint64_t alloc(uint64_t size, uint32_t device = 0) {
        peer.ask(Command::alloc_buffer, wire::AllocBufferRequest{device, size});
        const auto answer = peer.receive_reply_as<wire::AllocBufferReply>();
        if (answer.buffer != 0) {
            EXPECT_GE(+answer.size, size);
            peer.ask(Command::buffer_get_base, wire::BufferRequest{answer.buffer});
            base = peer.receive_reply_as<uint64_t>();
        }
        return answer.buffer;
    }
    void set(const wire::Tensor & tensor, const std::vector<std::byte> & data, uint64_t offset = 0) {
        peer.request(Command::set_tensor, bytes_of(wire::SetTensorRequest{tensor, 0, offset}) + data);
    }
    std::vector<std::byte> get(const wire::Tensor & tensor, uint64_t size, uint64_t offset = 0) {
        peer.ask(Command::get_tensor, wire::GetTensorRequest{tensor, offset, size});
        const auto answer = peer.receive_reply();
        EXPECT_TRUE(answer && answer->size() == size);
        return answer.value_or(std::vector<std::byte>());
    }
    std::vector<float> get_floats(const wire::Tensor & tensor, uint64_t count) { return as_floats(get(tensor, count * 4)); }

    WirePeer peer;
    uint64_t base = 0;  // of the last buffer

private:
    std::thread server_;
    std::atomic<Session *> session_ = nullptr;
    Error end_{};
    server::SessionCounters counters_;
};

// A client with one buffer of 4 KiB, in which it places tensors.
struct BufferClient : SessionClient {
    explicit BufferClient(Devices & devices = cpu_devices(), uint64_t max_memory = MemoryBudget::no_limit,
                              cache::Weights * weights = nullptr, Links * links = nullptr,
                              server::StockPairing * pairing = nullptr)
        : SessionClient({}, devices, max_memory, weights, links, pairing), buffer(alloc(4096)) {
        EXPECT_NE(buffer, 0u);
    }
    explicit BufferClient(uint64_t max_memory) : BufferClient(cpu_devices(), max_memory) {}
    wire::Tensor f32(uint64_t id, uint64_t offset, uint32_t ne0 = 4, uint32_t ne1 = 1) {
        return f32_tensor(id, {ne0, ne1, 1, 1}, buffer, base + offset);
    }
    std::vector<wire::Tensor> sum() {
        return {f32(1, 0), f32(2, 64), node_of(f32(3, 128), GGML_OP_ADD, {1, 2})};
    }
    uint64_t buffer;
};

// A client that uses the native dialect.
struct NativeClient : BufferClient {
    using BufferClient::BufferClient;
    template <class Request>
    void post(wire::NativeCommand command, const Request & request, const std::vector<std::byte> & more = {}) {
        peer.request(static_cast<Command>(command), bytes_of(request) + more);
    }
    void declare(uint16_t slot, uint64_t address, uint64_t ne0 = 4) {
        post(wire::NativeCommand::declare,
             wire::DeclareRequest{slot, {GGML_TYPE_F32, {ne0, 1, 1, 1}, {4, ne0 * 4, ne0 * 4, ne0 * 4}, address}});
    }
    void write(uint16_t slot, const std::vector<float> & values) {
        post(wire::NativeCommand::write, wire::WriteRequest{slot, 0, 0}, floats(values));
    }
    void find_part(const wire::FindPartRequest & request) { post(wire::NativeCommand::find_part, request); }
    std::vector<float> read(uint16_t slot, uint64_t count = 4) {
        post(wire::NativeCommand::read, wire::ReadRequest{slot, 0, count * 4});
        return as_floats(peer.receive_reply().value_or(std::vector<std::byte>()));
    }
    static wire::GraphTensor tensor(uint64_t address, uint64_t ne0 = 4) {
        wire::GraphTensor out{};
        out.type = GGML_TYPE_F32;
        const uint64_t ne[] = {ne0, 1, 1, 1}, nb[] = {4, ne0 * 4, ne0 * 4, ne0 * 4};
        std::memcpy(out.ne, ne, sizeof ne);
        std::memcpy(out.nb, nb, sizeof nb);
        out.address = address;
        return out;
    }
    std::vector<wire::GraphTensor> sum(ggml_op op = GGML_OP_ADD) {
        std::vector<wire::GraphTensor> out{tensor(buffer), tensor(buffer + 64), tensor(buffer + 128)};
        out[2].op = op;
        out[2].is_node = 1;
        out[2].flags = GGML_TENSOR_FLAG_COMPUTE;
        out[2].src[0] = 1;
        out[2].src[1] = 2;
        return out;
    }
    void graph(uint16_t slot, const std::vector<wire::GraphTensor> & tensors, uint16_t base = wire::no_base,
               const std::vector<wire::GraphTensor> & base_tensors = {}, uint32_t device = 0) {
        std::vector<std::byte> difference;
        wire::encode_difference(base_tensors, tensors, difference);
        post(wire::NativeCommand::graph, wire::GraphRequest{device, slot, base, static_cast<uint32_t>(tensors.size())},
             difference);
    }
    // Receives a text that the server sends instead of a reply.
    std::pair<wire::ReplyKind, std::string> receive_text() {
        uint64_t head = 0;
        if (!peer.receive(mutable_bytes(&head, sizeof head))) {
            return {};
        }
        return {static_cast<wire::ReplyKind>(head >> wire::reply_kind_shift),
                text_of(peer.receive(head & wire::reply_size_mask))};
    }
};

// Two devices with a blocking back-end, so that each has a DeviceQueue.
inline Devices two_cpu_devices() {
    auto opened = Devices::open({"CPU", "CPU"}, 1);
    EXPECT_TRUE(opened);
    return std::move(*opened);
}

}  // namespace caravan::test
