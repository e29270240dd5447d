// Most functions of a client's session, with a server that sends the input. Each connection gets the input from its start.
#include "client/session/connection.h"

#include "hostile_server.h"

namespace caravan::fuzz {
namespace {

using client::Connection;

// A graph of one node over a fake remote buffer: c = a + b.
class Sum {
public:
    explicit Sum(uint64_t base)
        : context_(ggml_init({.mem_size = 1 << 16, .mem_buffer = nullptr, .no_alloc = true}), ggml_free) {
        a = place(ggml_new_tensor_1d(context_.get(), GGML_TYPE_F32, 16), base);
        b = place(ggml_new_tensor_1d(context_.get(), GGML_TYPE_F32, 16), base + 64);
        c = place(ggml_add(context_.get(), a, b), base + 128);
        graph = ggml_new_graph_custom(context_.get(), 16, false);
        ggml_build_forward_expand(graph, c);
        graph->uid = 1;
    }

    static constexpr uint64_t handle = 0x1'0000'0000'0000;
    client::HandleOf handle_of() {
        return [this](ggml_backend_buffer_t buffer) { return buffer == &buffer_ ? handle : uint64_t{0}; };
    }

    ggml_tensor *a, *b, *c;
    ggml_cgraph * graph;

private:
    ggml_tensor * place(ggml_tensor * tensor, uint64_t address) {
        tensor->buffer = &buffer_;
        tensor->data = reinterpret_cast<void *>(address);
        return tensor;
    }

    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context_;
    ggml_backend_buffer buffer_{};
};

void use(Connection & session, Connection & other) {
    (void)session.queries().device_count();
    (void)session.queries().constants(2);
    (void)session.queries().memory(0);
    (void)session.queries().alloc_sizes(std::vector<wire::GetAllocSizeRequest>(2));
    const auto allocated = session.buffers().alloc(0, 4096);
    const client::RemoteBuffer buffer = allocated.value_or(client::RemoteBuffer{Sum::handle, Sum::handle, 4096});
    require(buffer.size >= 4096 && buffer.base + buffer.size > buffer.base, "a buffer has at least the requested size");
    Sum sum(buffer.base);
    if (session.is_native()) {
        (void)session.queries().supports(0, client::encode_op_query(*sum.c));
    }
    const auto region = [](const ggml_tensor * tensor) { return client::encode_region(*tensor, Sum::handle); };
    const std::vector<std::byte> ones(64, std::byte{1});
    std::vector<std::byte> got(64, std::byte{2}), rows(32, std::byte{2});
    session.buffers().clear(buffer, 0);
    session.data().init_tensor(region(sum.a));
    for (int step = 0; step < 3; ++step) {
        session.data().set(region(sum.a), client::range_of(*sum.a), 0, ones, false);
        session.data().set(region(sum.b), client::range_of(*sum.b), 0, ones, false);
        (void)session.launch(0, *sum.graph, sum.handle_of());
        session.await(session.data().get(region(sum.c), client::range_of(*sum.c), 0, got));
    }
    session.data().set_2d(region(sum.a), client::range_of(*sum.a), 0, 16, 2, 32, ones.data(), 16);
    session.await(session.data().get_2d(region(sum.a), client::range_of(*sum.a), 0, 16, 2, 32, rows));
    session.data().memset(region(sum.b), client::range_of(*sum.b), 0, 64, 7);
    (void)session.data().copy(region(sum.a), client::range_of(*sum.a), region(sum.b), client::range_of(*sum.b));
    session.transfers().transfer(other, region(sum.c), client::range_of(*sum.c), region(sum.a), client::range_of(*sum.a));
    (void)session.launch(0, *sum.graph, sum.handle_of());
    session.synchronize();
    other.synchronize();
    if (session.failed()) {
        session.await(session.data().get(region(sum.c), client::range_of(*sum.c), 0, got));
        require(std::ranges::all_of(got, [](std::byte b) { return b == std::byte{0xff}; }), "a lost server reads as NaN");
    }
    if (session.is_native()) {
        (void)session.reductions().algorithm(0, 4096);
        if (const auto clock = session.queries().start_spans()) {
            (void)session.queries().take_spans(*clock, seconds(1));
        }
    }
    session.buffers().free(buffer);
}

}  // namespace
}  // namespace caravan::fuzz

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    ::setenv("GGML_RPC_RECONNECT_S", "0", 1);  // do not wait for a reconnect; the target `records` covers resuming
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    static fuzz::HostileServer & hostile = *new fuzz::HostileServer;
    hostile.reply_with(fuzz::input_bytes(data, size));
    const auto open = [] { return fuzz::Connection::open(hostile.endpoint(), fuzz::Connection::Purpose::session); };
    if (const auto session = open()) {
        if (const auto other = open()) {
            fuzz::use(**session, **other);
        }
    }
    return 0;
}
