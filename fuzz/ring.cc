// Messages from a hostile peer over RDMA. The transport and the queue pairs are the real ones. libibverbs is not loaded: the
// functions below replace it by a device that delivers the input. The input is the peer's queue pair (PeerFacts, 40 bytes),
// which stands for 1 + traffic class % 4 queue pairs, and messages: u16 size, u8 flags, bytes. Bits 1 and 2 of the flags are
// the queue pair. Unless bit 0 is set, the numbers in the message's header are replaced by correct ones, which the fuzzer could
// hardly guess; bits 3 and 4 then let the message overtake that many others.
#include "net/rdma/ring_transport.h"

#include <algorithm>
#include <array>
#include <cstring>
#include <deque>
#include <optional>
#include <set>
#include <utility>
#include <vector>

#include "kit.h"
#include "net/rdma/queue_pair.h"
#include "net/rdma/ring_header.h"
#include "wire/extension.h"

namespace {

using namespace caravan;

ConstBytes input;
ibv_device * no_devices[2] = {};
ibv_device device;
ibv_context context;
ibv_pd pd;
ibv_mr mr;
ibv_comp_channel channel;

struct Pair {
    ibv_qp qp;
    ibv_cq send_cq, receive_cq;
    std::deque<ibv_recv_wr> receives;  // posted receives
    std::deque<ibv_sge> places;        // the buffers of the posted receives
    std::deque<ibv_wc> completions;    // of sends
    uint32_t messages = 0;             // delivered
    bool turn = false;
};
std::array<Pair, wire::max_rails> pairs;
size_t queues = 0, count = 1;  // completion queues that exist; queue pairs
std::set<uint32_t> numbers;    // of data messages that were delivered

struct Next {
    size_t size, pair;
    uint8_t flags;
};
std::optional<Next> next;  // whose header was taken from the input

Pair & pair_of(const ibv_qp * qp) {
    return *std::ranges::find(pairs, qp, [](const Pair & pair) { return &pair.qp; });
}

int post_receive(ibv_qp * qp, ibv_recv_wr * request, ibv_recv_wr **) {
    pair_of(qp).receives.push_back(*request);
    pair_of(qp).places.push_back(*request->sg_list);
    return 0;
}

int post_send(ibv_qp * qp, ibv_send_wr * request, ibv_send_wr **) {
    if (request->num_sge > 0) {
        fuzz::require(__asan_region_is_poisoned(reinterpret_cast<void *>(request->sg_list->addr),
                                                request->sg_list->length) == nullptr,
                      "sent data is valid memory");
    }
    if ((request->send_flags & IBV_SEND_SIGNALED) != 0) {
        pair_of(qp).completions.push_back({.wr_id = request->wr_id, .status = IBV_WC_SUCCESS});
    }
    return 0;
}

void set_numbers(std::byte * message, size_t size, uint8_t flags, uint32_t sequence) {
    if (count == 1) {
        store(message + offsetof(net::rdma::RingHeader, number), sequence);
        return;
    }
    store(message + offsetof(net::rdma::RailHeader, sequence), static_cast<uint16_t>(sequence));
    uint32_t number = 0;
    for (unsigned overtaken = 0; numbers.contains(number) || overtaken < (flags >> 3 & 3u); ++number) {
        overtaken += numbers.contains(number) ? 0 : 1;
    }
    if (size > sizeof(net::rdma::RailHeader)) {
        numbers.insert(number);
        store(message + offsetof(net::rdma::RailHeader, number), number);
    }
}

// Delivers the next message into the next posted buffer of its queue pair. A message without a buffer, or too long for it,
// breaks the connection, as on a real device.
ibv_wc arrival(Pair & pair, Next message) {
    if (input.empty() || pair.receives.empty() || message.size > pair.places.front().length) {
        return {.status = IBV_WC_WR_FLUSH_ERR};
    }
    const ConstBytes bytes = input.first(std::min(message.size, input.size()));
    input = input.subspan(bytes.size());
    auto * const place = reinterpret_cast<std::byte *>(pair.places.front().addr);
    std::memcpy(place, bytes.data(), bytes.size());
    if (bytes.size() >= sizeof(net::rdma::RingHeader) && (message.flags & 1) == 0) {
        set_numbers(place, bytes.size(), message.flags, pair.messages);
    }
    ++pair.messages;
    const ibv_wc arrived{.wr_id = pair.receives.front().wr_id,
                         .status = IBV_WC_SUCCESS,
                         .opcode = IBV_WC_RECV,
                         .byte_len = static_cast<uint32_t>(bytes.size())};
    pair.receives.pop_front();
    pair.places.pop_front();
    return arrived;
}

// Delivers a message at every other poll of a queue, so that some polls find none.
int poll_cq(ibv_cq * queue, int, ibv_wc * out) {
    Pair & pair = *std::ranges::find_if(pairs, [&](const Pair & each) {
        return &each.send_cq == queue || &each.receive_cq == queue;
    });
    if (queue == &pair.send_cq) {
        if (pair.completions.empty()) {
            return 0;
        }
        *out = pair.completions.front();
        pair.completions.pop_front();
        return 1;
    }
    if (!next) {
        const size_t size = fuzz::take_number<uint16_t>(input);
        const auto flags = fuzz::take_number<uint8_t>(input);
        next = Next{size, (flags >> 1 & 3u) % count, flags};
    }
    pair.turn = !pair.turn;
    if (&pair != &pairs[next->pair] || !pair.turn) {
        return 0;
    }
    *out = arrival(pair, *std::exchange(next, std::nullopt));
    return 1;
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
                Pair & pair = pairs.at(queues / 2);
                ibv_cq & queue = queues++ % 2 == 0 ? pair.send_cq : pair.receive_cq;
                queue.context = &context;
                return &queue;
            },
        .destroy_cq = [](ibv_cq *) { return 0; },
        .create_qp =
            [](ibv_pd *, ibv_qp_init_attr *) {
                ibv_qp & qp = pairs.at(queues / 2 - 1).qp;
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
    pairs = {};
    queues = 0;
    numbers.clear();
    next.reset();
    const auto facts = fuzz::take_number<net::rdma::PeerFacts>(input);
    count = 1 + facts.traffic_class % pairs.size();
    std::vector<std::unique_ptr<net::rdma::QueuePair>> connected;
    for (size_t i = 0; i < count; ++i) {
        auto pair = net::rdma::QueuePair::create({.device = "fuzz", .mtu = 1024}, {.slot_size = 1024, .depth = 12});
        fuzz::require(pair.has_value(), "a queue pair can be created");
        if (!(*pair)->connect(facts, facts.traffic_class)) {
            return 0;
        }
        connected.push_back(std::move(*pair));
    }
    auto transport = net::rdma::make_ring_transport(std::move(connected), UniqueFd());
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
