// A peer of ggml's own RDMA dialect, between a stock program that has only TCP and the peer under test. It uses no code of
// Caravan: it is written from docs/protocol.md ("Stock peers with RDMA"), with the settings and the order of a stock peer.
//
//   rdma-stock-peer server PORT HOST HOST_PORT DEVICE GID [FAULT]
//     A stock RDMA server. The stock TCP server is at HOST:HOST_PORT.
//   rdma-stock-peer client PORT HOST HOST_PORT DEVICE GID [FAULT]
//     A stock RDMA client for the stock TCP client that connects to PORT. The server under test is at HOST:HOST_PORT.
//   FAULT: tcp: announces a queue pair, but stays on TCP. empty: begins with an empty message.
//
// A stock receiver copies a whole message into the field that it reads. One that does not fit ends this program.
#include <arpa/inet.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sched.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <thread>
#include <vector>

namespace {

constexpr size_t message_size = 256 * 1024;
constexpr int receive_depth = 24;
constexpr size_t capabilities_size = 24;

[[noreturn]] void die(const char * what) {
    std::printf("stock peer: %s\n", what);
    std::fflush(stdout);
    std::_Exit(1);
}

void need(bool is_true, const char * what) {
    if (!is_true) {
        die(what);
    }
}

std::string device_name, fault;
int gid_index = 0;

// One end of a connection that is relayed: fields are received and sent whole.
class End {
public:
    virtual ~End() = default;
    virtual bool receive(void * data, size_t size) = 0;
    virtual bool send(const void * data, size_t size) = 0;
    virtual void close() = 0;
};

class Tcp : public End {
public:
    explicit Tcp(int fd) : fd_(fd) {
        const int on = 1;
        ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    ~Tcp() override { ::close(fd_); }
    bool receive(void * data, size_t size) override {
        for (size_t done = 0; done < size;) {
            const ssize_t got = ::recv(fd_, static_cast<char *>(data) + done, size - done, 0);
            if (got <= 0) {
                return false;
            }
            done += static_cast<size_t>(got);
        }
        return true;
    }
    bool send(const void * data, size_t size) override {
        for (size_t done = 0; done < size;) {
            const ssize_t sent = ::send(fd_, static_cast<const char *>(data) + done, size - done, MSG_NOSIGNAL);
            if (sent <= 0) {
                return false;
            }
            done += static_cast<size_t>(sent);
        }
        return true;
    }
    void close() override { ::shutdown(fd_, SHUT_RDWR); }
    int fd() const { return fd_; }

private:
    const int fd_;
};

struct Capabilities {
    uint32_t qpn, psn;
    uint8_t gid[16];
};
static_assert(sizeof(Capabilities) == capabilities_size);

class Rdma : public End {
public:
    explicit Rdma(Tcp & tcp) : tcp_(tcp) {
        int count = 0;
        ibv_device ** devices = ibv_get_device_list(&count);
        for (int i = 0; i < count; ++i) {
            if (device_name == ibv_get_device_name(devices[i])) {
                context_ = ibv_open_device(devices[i]);
            }
        }
        ibv_free_device_list(devices);
        need(context_ != nullptr, "no such device");
        domain_ = ibv_alloc_pd(context_);
        sends_ = ibv_create_cq(context_, 16, nullptr, nullptr, 0);
        receives_ = ibv_create_cq(context_, receive_depth + 4, nullptr, nullptr, 0);
        ibv_qp_init_attr init{};
        init.send_cq = sends_;
        init.recv_cq = receives_;
        init.qp_type = IBV_QPT_RC;
        init.cap.max_send_wr = 4;
        init.cap.max_recv_wr = receive_depth + 4;
        init.cap.max_send_sge = init.cap.max_recv_sge = 1;
        init.cap.max_inline_data = 256;
        pair_ = ibv_create_qp(domain_, &init);
        need(pair_ != nullptr, "ibv_create_qp");
        memory_.resize(message_size * (receive_depth + 1));
        region_ = ibv_reg_mr(domain_, memory_.data(), memory_.size(), IBV_ACCESS_LOCAL_WRITE);
        need(region_ != nullptr, "ibv_reg_mr");
        need(ibv_query_port(context_, 1, &port_) == 0, "ibv_query_port");
    }
    ~Rdma() override {
        ibv_destroy_qp(pair_);
        ibv_destroy_cq(sends_);
        ibv_destroy_cq(receives_);
        ibv_dereg_mr(region_);
        ibv_dealloc_pd(domain_);
        ibv_close_device(context_);
    }

    Capabilities capabilities() const {
        Capabilities out{pair_->qp_num, pair_->qp_num & 0xffffff, {}};
        ibv_gid gid{};
        need(ibv_query_gid(context_, 1, gid_index, &gid) == 0, "ibv_query_gid");
        std::memcpy(out.gid, gid.raw, sizeof out.gid);
        return out;
    }

    void activate(const Capabilities & peer) {
        ibv_qp_attr init{};
        init.qp_state = IBV_QPS_INIT;
        init.port_num = 1;
        init.qp_access_flags = IBV_ACCESS_REMOTE_WRITE | IBV_ACCESS_REMOTE_READ | IBV_ACCESS_LOCAL_WRITE;
        need(ibv_modify_qp(pair_, &init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) == 0, "INIT");
        for (int i = 0; i < receive_depth; ++i) {
            post_receive(i);
        }
        ibv_qp_attr rtr{};
        rtr.qp_state = IBV_QPS_RTR;
        rtr.path_mtu = port_.active_mtu;
        rtr.dest_qp_num = peer.qpn;
        rtr.rq_psn = peer.psn;
        rtr.max_dest_rd_atomic = 1;
        rtr.min_rnr_timer = 1;
        rtr.ah_attr.is_global = 1;
        std::memcpy(rtr.ah_attr.grh.dgid.raw, peer.gid, sizeof peer.gid);
        rtr.ah_attr.grh.hop_limit = 1;
        rtr.ah_attr.grh.sgid_index = static_cast<uint8_t>(gid_index);
        rtr.ah_attr.port_num = 1;
        need(ibv_modify_qp(pair_, &rtr,
                           IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                               IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) == 0, "RTR");
        ibv_qp_attr rts{};
        rts.qp_state = IBV_QPS_RTS;
        rts.timeout = 14;
        rts.retry_cnt = 7;
        rts.rnr_retry = 7;
        rts.sq_psn = pair_->qp_num & 0xffffff;
        rts.max_rd_atomic = 1;
        need(ibv_modify_qp(pair_, &rts,
                           IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY | IBV_QP_SQ_PSN |
                               IBV_QP_MAX_QP_RD_ATOMIC) == 0, "RTS");
        std::printf("stock peer: rdma %u->%u\n", pair_->qp_num, peer.qpn);
        std::fflush(stdout);
    }

    bool receive(void * data, size_t size) override {
        for (size_t left = size; left > 0;) {
            ibv_wc completion{};
            if (!poll(receives_, completion)) {
                return false;
            }
            need(completion.byte_len <= left, "OVERRUN: a message is longer than the field");
            const auto slot = static_cast<int>(completion.wr_id);
            std::memcpy(static_cast<char *>(data) + (size - left), memory_.data() + message_size * static_cast<size_t>(slot),
                        completion.byte_len);
            left -= completion.byte_len;
            post_receive(slot);
            ++received;
        }
        return true;
    }

    bool send(const void * data, size_t size) override {
        char * const slot = memory_.data() + message_size * receive_depth;
        for (size_t done = 0; done < size;) {
            const size_t part = std::min(size - done, message_size);
            std::memcpy(slot, static_cast<const char *>(data) + done, part);
            if (!post(slot, part)) {
                return false;
            }
            done += part;
            ++sent;
        }
        return true;
    }

    bool send_empty() { return post(memory_.data(), 0); }

    void close() override { tcp_.close(); }

    std::atomic<uint64_t> sent{0}, received{0};  // messages

private:
    bool post(char * data, size_t size) {
        ibv_sge part{reinterpret_cast<uint64_t>(data), static_cast<uint32_t>(size), region_->lkey};
        ibv_send_wr request{};
        request.sg_list = &part;
        request.num_sge = 1;
        request.opcode = IBV_WR_SEND;
        request.send_flags = IBV_SEND_SIGNALED;
        ibv_send_wr * bad = nullptr;
        ibv_wc completion{};
        return ibv_post_send(pair_, &request, &bad) == 0 && poll(sends_, completion);
    }

    void post_receive(int slot) {
        ibv_sge part{reinterpret_cast<uint64_t>(memory_.data() + message_size * static_cast<size_t>(slot)), message_size,
                     region_->lkey};
        ibv_recv_wr request{};
        request.wr_id = static_cast<uint64_t>(slot);
        request.sg_list = &part;
        request.num_sge = 1;
        ibv_recv_wr * bad = nullptr;
        need(ibv_post_recv(pair_, &request, &bad) == 0, "ibv_post_recv");
    }

    bool poll(ibv_cq * queue, ibv_wc & completion) {
        for (int turn = 0;; ++turn) {
            const int count = ibv_poll_cq(queue, 1, &completion);
            if (count != 0) {
                return count > 0 && completion.status == IBV_WC_SUCCESS;
            }
            if (turn % 256 == 0) {
                pollfd closing{tcp_.fd(), POLLRDHUP, 0};
                if (::poll(&closing, 1, 0) > 0 && (closing.revents & (POLLHUP | POLLERR | POLLRDHUP)) != 0) {
                    return false;
                }
            }
            ::sched_yield();
        }
    }

    Tcp & tcp_;
    ibv_context * context_ = nullptr;
    ibv_pd * domain_ = nullptr;
    ibv_cq * sends_ = nullptr;
    ibv_cq * receives_ = nullptr;
    ibv_qp * pair_ = nullptr;
    ibv_mr * region_ = nullptr;
    ibv_port_attr port_{};
    std::vector<char> memory_;  // receive slots, then the send slot
};

bool relay_field(End & from, End & to, size_t size, std::vector<char> & buffer) {
    buffer.resize(size);
    return from.receive(buffer.data(), size) && to.send(buffer.data(), size);
}

// Relays commands (with a leading byte) or replies until an end closes.
void relay(End & from, End & to, bool commands) {
    std::vector<char> buffer;
    uint64_t size = 0;
    while ((!commands || relay_field(from, to, 1, buffer)) && relay_field(from, to, sizeof size, buffer)) {
        std::memcpy(&size, buffer.data(), sizeof size);
        if (size > 0 && !relay_field(from, to, size, buffer)) {
            break;
        }
    }
    from.close();
    to.close();
}

#pragma pack(push, 1)
struct Hello {
    uint8_t command = 14;
    uint64_t size = capabilities_size;
    Capabilities capabilities{};
};
struct HelloReply {
    uint64_t size = 4 + capabilities_size;
    uint8_t version[4] = {};
    Capabilities capabilities{};
};
#pragma pack(pop)

bool is_zero(const Capabilities & capabilities) {
    const Capabilities zero{};
    return std::memcmp(&capabilities, &zero, sizeof zero) == 0;
}

int connect_to(const char * host, int port) {
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(port));
    need(::inet_pton(AF_INET, host, &address.sin_addr) == 1, "bad address");
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    need(::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0, "cannot connect");
    return fd;
}

// Relays one connection. The queue pair, if there is one, is at `near` for a server and at `far` for a client.
void serve(bool is_server, Tcp near, Tcp far) {
    Hello hello, forwarded;
    HelloReply reply;
    if (!near.receive(&hello, sizeof hello)) {
        return;
    }
    Tcp & side = is_server ? near : far;
    Rdma rdma(side);
    if (!is_server) {
        forwarded.capabilities = rdma.capabilities();
    }
    if (!far.send(&forwarded, sizeof forwarded) || !far.receive(&reply, sizeof reply)) {
        return;
    }
    const Capabilities peer = is_server ? hello.capabilities : reply.capabilities;
    reply.capabilities = is_server ? rdma.capabilities() : Capabilities{};
    // As a stock server: replies, then activates.
    if (!near.send(&reply, sizeof reply)) {
        return;
    }
    const bool uses_rdma = !is_zero(peer) && peer.qpn != 0 && fault != "tcp";
    if (uses_rdma) {
        rdma.activate(peer);
        if (fault == "empty") {
            rdma.send_empty();
        }
    } else {
        std::printf("stock peer: tcp\n");
    }
    End & near_end = uses_rdma && is_server ? static_cast<End &>(rdma) : near;
    End & far_end = uses_rdma && !is_server ? static_cast<End &>(rdma) : far;
    std::thread replies([&] { relay(far_end, near_end, false); });
    relay(near_end, far_end, true);
    replies.join();
    std::printf("stock peer: closed, rdma messages sent %llu received %llu\n",
                static_cast<unsigned long long>(rdma.sent), static_cast<unsigned long long>(rdma.received));
    std::fflush(stdout);
}

}  // namespace

int main(int count, char ** arguments) {
    need(count >= 7, "usage: rdma-stock-peer server|client PORT HOST HOST_PORT DEVICE GID [FAULT]");
    const bool is_server = std::string(arguments[1]) == "server";
    device_name = arguments[5];
    gid_index = std::atoi(arguments[6]);
    fault = count > 7 ? arguments[7] : "";
    const int listener = ::socket(AF_INET, SOCK_STREAM, 0), on = 1;
    ::setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    sockaddr_in address{};
    address.sin_family = AF_INET;
    address.sin_port = htons(static_cast<uint16_t>(std::atoi(arguments[2])));
    need(::bind(listener, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0, "cannot bind");
    need(::listen(listener, 8) == 0, "cannot listen");
    std::printf("stock peer: ready\n");
    std::fflush(stdout);
    for (;;) {
        const int near = ::accept(listener, nullptr, nullptr);
        need(near >= 0, "cannot accept");
        const int far = connect_to(arguments[3], std::atoi(arguments[4]));
        std::thread([=] { serve(is_server, Tcp(near), Tcp(far)); }).detach();
    }
}
