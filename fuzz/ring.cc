// Messages from a hostile peer over RDMA. The transport and the queue pair are the real ones. libibverbs is not loaded: the
// functions below replace it by a device that delivers the input. The input is the peer's queue pair (PeerFacts, 40 bytes)
// and messages: u16 size, u8 flags, bytes. Unless flag 1 is set, the number in the message's header is replaced by the
// correct one, which the fuzzer could hardly guess.
#include "net/rdma/ring_transport.h"

#include <cstring>
#include <deque>
#include <optional>

#include "kit.h"
#include "net/rdma/queue_pair.h"
#include "net/rdma/ring_header.h"

namespace {

using namespace caravan;

ConstBytes input;
std::deque<ibv_recv_wr> receives;  // posted receives
std::deque<ibv_sge> places;        // the buffers of the posted receives
std::deque<ibv_wc> completions;    // of sends
uint32_t messages = 0;             // delivered
ibv_device * no_devices[2] = {};
ibv_device device;
ibv_context context;
ibv_pd pd;
ibv_mr mr;
ibv_comp_channel channel;
ibv_cq cq;
ibv_qp qp;

int post_receive(ibv_qp *, ibv_recv_wr * request, ibv_recv_wr **) {
    receives.push_back(*request);
    places.push_back(*request->sg_list);
    return 0;
}

int post_send(ibv_qp *, ibv_send_wr * request, ibv_send_wr **) {
    if (request->num_sge > 0) {
        fuzz::require(__asan_region_is_poisoned(reinterpret_cast<void *>(request->sg_list->addr),
                                                request->sg_list->length) == nullptr,
                      "sent data is valid memory");
    }
    if ((request->send_flags & IBV_SEND_SIGNALED) != 0) {
        completions.push_back({.wr_id = request->wr_id, .status = IBV_WC_SUCCESS});
    }
    return 0;
}

// Delivers the next message into the next posted buffer. A message without a buffer, or too long for it, breaks the
// connection, as on a real device.
ibv_wc next_arrival() {
    const size_t size = fuzz::take_number<uint16_t>(input);
    const auto flags = fuzz::take_number<uint8_t>(input);
    if (input.empty() || receives.empty() || size > places.front().length) {
        return {.status = IBV_WC_WR_FLUSH_ERR};
    }
    const ConstBytes message = input.first(std::min(size, input.size()));
    input = input.subspan(message.size());
    auto * const place = reinterpret_cast<std::byte *>(places.front().addr);
    std::memcpy(place, message.data(), message.size());
    if (message.size() >= sizeof(net::rdma::RingHeader) && (flags & 1) == 0) {
        store(place + offsetof(net::rdma::RingHeader, number), messages);
    }
    ++messages;
    const ibv_wc arrived{.wr_id = receives.front().wr_id,
                         .status = IBV_WC_SUCCESS,
                         .opcode = IBV_WC_RECV,
                         .byte_len = static_cast<uint32_t>(message.size())};
    receives.pop_front();
    places.pop_front();
    return arrived;
}

// Delivers a message at every other poll, so that some polls find none.
int poll_cq(ibv_cq *, int, ibv_wc * out) {
    static bool turn = false;
    if (!completions.empty()) {
        *out = completions.front();
        completions.pop_front();
        return 1;
    }
    turn = !turn;
    if (turn) {
        *out = next_arrival();
    }
    return turn ? 1 : 0;
}

}  // namespace

namespace caravan::net::rdma {

const Result<Verbs> & load_verbs() {
    static const Result<Verbs> stand_in = Verbs{
        .get_device_list =
            [](int * count) {
                no_devices[0] = &device;
                *count = 1;
                return no_devices;
            },
        .free_device_list = [](ibv_device **) {},
        .get_device_name = [](ibv_device *) { return "fuzz"; },
        .open_device =
            [](ibv_device *) {
                context.async_fd = -1;
                context.ops.poll_cq = poll_cq;
                context.ops.post_send = post_send;
                context.ops.post_recv = post_receive;
                return &context;
            },
        .close_device = [](ibv_context *) { return 0; },
        .alloc_pd = [](ibv_context *) { return &pd; },
        .dealloc_pd = [](ibv_pd *) { return 0; },
        .reg_mr = [](ibv_pd *, void *, size_t, int) { return &mr; },
        .dereg_mr = [](ibv_mr *) { return 0; },
        .create_comp_channel =
            [](ibv_context *) {
                channel.fd = -1;
                return &channel;
            },
        .destroy_comp_channel = [](ibv_comp_channel *) { return 0; },
        .create_cq =
            [](ibv_context *, int, void *, ibv_comp_channel *, int) {
                cq.context = &context;
                return &cq;
            },
        .destroy_cq = [](ibv_cq *) { return 0; },
        .create_qp =
            [](ibv_pd *, ibv_qp_init_attr *) {
                qp.context = &context;
                return &qp;
            },
        .destroy_qp = [](ibv_qp *) { return 0; },
        .modify_qp = [](ibv_qp *, ibv_qp_attr *, int) { return 0; },
        .get_cq_event = [](ibv_comp_channel *, ibv_cq **, void **) { return -1; },
        .ack_cq_events = [](ibv_cq *, unsigned) {},
        .get_async_event =
            [](ibv_context *, ibv_async_event *) {
                errno = EAGAIN;
                return -1;
            },
        .ack_async_event = [](ibv_async_event *) {},
        .wc_status_str = [](ibv_wc_status) { return "broken"; },
    };
    return stand_in;
}

}  // namespace caravan::net::rdma

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    input = fuzz::input_bytes(data, size);
    receives.clear();
    places.clear();
    completions.clear();
    messages = 0;
    const auto facts = fuzz::take_number<net::rdma::PeerFacts>(input);
    auto pair = net::rdma::QueuePair::create({.device = "fuzz", .mtu = 1024}, {.slot_size = 1024, .depth = 12});
    fuzz::require(pair.has_value(), "a queue pair can be created");
    if (!(*pair)->connect(facts, facts.traffic_class)) {
        return 0;
    }
    auto transport = net::rdma::make_ring_transport(std::move(*pair), UniqueFd());
    if (!transport) {
        return 0;
    }
    std::array<std::byte, 3000> memory{};
    for (size_t turn = 0;; ++turn) {
        const std::array parts{MutableBytes(memory).first(1 + turn * 97 % 1500), MutableBytes(memory).subspan(1500)};
        const auto got = (*transport)->receive(parts);
        if (!got) {
            return 0;
        }
        fuzz::require(*got <= parts[0].size() + parts[1].size(), "received data fits into the buffers");
        if (turn % 3 == 0) {
            const std::array out{ConstBytes(memory).first(turn * 31 % 200), ConstBytes(memory).first(1400)};
            (void)(*transport)->send(out);
        }
    }
}
