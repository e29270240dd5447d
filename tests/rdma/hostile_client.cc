// A client that violates the protocol once: after a correct switch to RDMA, or during the negotiation. In the first case it
// prints "activated", then "closed by the server" when its session has ended; exit code 1 if that takes over 20 s.
//
//   rdma-hostile HOST PORT oversized|empty|short|number|credits|flood|tcp
//   rdma-hostile HOST PORT facts|token|short-token|lie|verdict|long-verdict
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>

#include <cstdio>
#include <cstdlib>
#include <string_view>

#include "net/exact_io.h"
#include "net/hello.h"
#include "net/rdma/proof.h"
#include "net/rdma/queue_pair.h"
#include "net/rdma/ring_header.h"
#include "net/socket.h"

using namespace caravan;
using net::rdma::PeerFacts;
using net::rdma::QueuePair;
using net::rdma::RingHeader;

namespace {

constexpr uint64_t sends = 1000;                // first wr_id of sends; the wr_id of a receive is its slot
constexpr uint32_t more_than_credits = 24;      // all slots of the server; a client has 18 credits

template <class T>
T need(Result<T> result) {
    if (!result) {
        std::fprintf(stderr, "%s\n", result.error().text.c_str());
        std::exit(2);
    }
    if constexpr (!std::is_void_v<T>) {
        return std::move(*result);
    }
}

TimePoint soon() { return Clock::now() + seconds(20); }

template <class T>
void send(int socket, wire::Command command, const T & payload, uint64_t size = sizeof(T)) {
    std::byte bytes[sizeof(wire::RequestHeader) + sizeof payload];
    store(bytes, wire::RequestHeader{command, size});
    store(bytes + sizeof(wire::RequestHeader), payload);
    need(net::send_exact(socket, bytes, soon()));
}

template <class T>
T receive_reply(int socket) {
    std::byte bytes[sizeof(uint64_t) + sizeof(T)];
    need(net::receive_exact(socket, bytes, soon()));
    return load<T>(bytes + sizeof(uint64_t));
}

// Sends `size` bytes from send slot `slot` on; 0: an empty message.
void post(QueuePair & pair, uint32_t slot, uint32_t size) {
    ibv_sge sge{reinterpret_cast<uint64_t>(pair.send_slot(slot).data()), size, pair.lkey()};
    ibv_send_wr request{}, * bad = nullptr;
    request.wr_id = sends + slot;
    request.sg_list = &sge;
    request.num_sge = size > 0 ? 1 : 0;
    request.opcode = IBV_WR_SEND;
    request.send_flags = IBV_SEND_SIGNALED | IBV_SEND_SOLICITED;
    if (ibv_post_send(pair.qp(), &request, &bad) != 0) {
        std::perror("ibv_post_send");
    }
}

// Waits for the completion of a send, or else of a receive.
void await(QueuePair & pair, bool is_send) {
    for (const TimePoint deadline = soon(); Clock::now() < deadline; ::sched_yield()) {
        ibv_wc completion{};
        if (pair.poll(completion) > 0 && (completion.wr_id >= sends) == is_send) {
            return;
        }
    }
    std::exit(2);
}

void attack(std::string_view what, QueuePair & pair, int socket) {
    // The header of a long command: the server waits for the rest.
    constexpr wire::RequestHeader command{wire::Command::graph_compute, 1 << 20};
    constexpr uint32_t size = sizeof(RingHeader) + sizeof command;
    const auto prepare = [&](uint32_t slot, RingHeader header) {
        store(pair.send_slot(slot).data(), header);
        store(pair.send_slot(slot).data() + sizeof header, command);
    };
    prepare(0, {});
    if (what == "oversized") {
        post(pair, 0, 2 * 64 * 1024);
    } else if (what == "empty") {
        post(pair, 0, sizeof(RingHeader));
    } else if (what == "short") {
        post(pair, 0, sizeof(RingHeader) - 1);
    } else if (what == "number") {
        prepare(0, {.number = 1});
        post(pair, 0, size);
    } else if (what == "credits") {
        prepare(0, {.credits = UINT32_MAX});
        post(pair, 0, size);
    } else if (what == "tcp") {
        const char garbage[] = "GET / HTTP/1.1\r\n\r\n";
        ::send(socket, garbage, sizeof garbage, 0);
    } else if (what == "flood") {
        std::getchar();  // until the test has stopped the server's worker
        for (uint32_t i = 0; i < more_than_credits; ++i) {
            prepare(i, {.number = i});
            post(pair, i, size);
        }
        std::puts("flooded");
        std::fflush(stdout);
    }
}

bool is_closed(int socket) {
    for (;;) {
        pollfd wait{socket, POLLIN, 0};
        if (::poll(&wait, 1, 20000) <= 0) {
            return false;
        }
        char data[256];
        if (::recv(socket, data, sizeof data, MSG_DONTWAIT) <= 0) {
            return true;
        }
    }
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc != 4) {
        return 2;
    }
    const std::string_view what = argv[3];
    const UniqueFd socket = need(net::connect_socket(
        {.host = argv[1], .port = static_cast<uint16_t>(std::atoi(argv[2])), .path = {}}, soon()));
    send(socket.get(), wire::Command::hello, net::own_extension());
    receive_reply<wire::HelloReply>(socket.get());

    const auto criteria = net::rdma::criteria_from_environment(socket.get());
    const auto choice = need(net::rdma::choose(net::rdma::scan_ports(), criteria));
    const auto pair = need(QueuePair::create(choice, {}));
    PeerFacts facts = pair->facts();
    if (what == "facts") {
        facts.depth = UINT32_MAX;
    }
    send(socket.get(), wire::command_rdma_offer, facts);
    const auto answer = receive_reply<wire::RdmaReply>(socket.get());
    if (what == "facts") {
        std::printf("accepted %d: %.*s\n", answer.accepted, static_cast<int>(sizeof answer.reason), answer.reason);
        return answer.accepted;
    }
    need(pair->connect(load<PeerFacts>(answer.queue_pair), 0));
    const bool is_token_wrong = what == "token" || what == "short-token";
    if (is_token_wrong) {
        post(*pair, 0, what == "token" ? pair->send_slot_size() : 8);
        await(*pair, true);
    } else if (what != "lie") {
        need(net::rdma::prove(std::span(&pair, 1), net::rdma::Prover::client, soon()).front());
    }
    send(socket.get(), what == "verdict" ? wire::command_rdma_offer : wire::command_rdma_verdict,
         wire::RdmaVerdict{static_cast<uint8_t>(is_token_wrong ? 0 : 1)}, what == "long-verdict" ? 2 : 1);
    if (is_token_wrong) {
        return 0;
    }
    if (what == "lie") {
        const wire::RequestHeader no_token{wire::Command{255}, 0};
        store(pair->send_slot(0).data(), no_token);
        post(*pair, 0, sizeof no_token);
    }
    std::puts("activated");
    std::fflush(stdout);
    attack(what, *pair, socket.get());
    if (what == "lie") {
        return 0;
    }
    if (!is_closed(socket.get())) {
        std::puts("the session is still open");
        return 1;
    }
    std::puts("closed by the server");
    return 0;
}
