// Round trips and an upload over bare verbs: the baseline for Caravan's RDMA transport. Messages of 64 KB through
// registered slots, no copies, no credits, several sends in flight; TCP only to exchange the data of the queue pairs.
// Waits like Caravan: polls the completion queue for GGML_RPC_POLL_US with sched_yield, then sleeps for an event.
#include <arpa/inet.h>
#include <infiniband/verbs.h>
#include <netinet/in.h>
#include <sys/socket.h>
#include <unistd.h>

#include <deque>
#include <span>

#include "measure.h"

namespace {

constexpr size_t slot_size = 64 * 1024;
constexpr uint32_t receive_slots = 64, send_slots = 16;
constexpr uint32_t signal_every = 4;
constexpr int gid_index = 1;  // ::ffff:IPv4 in the lab

struct Facts {
    uint32_t qpn, psn;
    ibv_gid gid;
};

void need(bool ok, const char * what) {
    if (!ok) {
        measure::die(std::string(what) + " failed: " + std::strerror(errno));
    }
}

// One connection. Its resources are freed when the process exits.
class Line {
public:
    explicit Line(int socket) {
        int count = 0;
        ibv_device ** devices = ibv_get_device_list(&count);
        need(devices != nullptr && count > 0, "finding a device");
        ibv_context * context = ibv_open_device(devices[0]);
        need(context != nullptr, "ibv_open_device");
        pd_ = ibv_alloc_pd(context);
        const size_t size = slot_size * (receive_slots + send_slots);
        memory_ = static_cast<char *>(std::aligned_alloc(4096, size));
        std::memset(memory_, 'x', size);
        mr_ = ibv_reg_mr(pd_, memory_, size, IBV_ACCESS_LOCAL_WRITE);
        need(mr_ != nullptr, "ibv_reg_mr");
        channel_ = ibv_create_comp_channel(context);
        cq_ = ibv_create_cq(context, 256, nullptr, channel_, 0);
        ibv_qp_init_attr init{};
        init.send_cq = init.recv_cq = cq_;
        init.qp_type = IBV_QPT_RC;
        init.cap = {.max_send_wr = send_slots, .max_recv_wr = receive_slots, .max_send_sge = 1, .max_recv_sge = 1,
                    .max_inline_data = 256};
        qp_ = ibv_create_qp(pd_, &init);
        need(qp_ != nullptr, "ibv_create_qp");
        max_inline_ = init.cap.max_inline_data;
        ibv_qp_attr to_init{};
        to_init.qp_state = IBV_QPS_INIT;
        to_init.port_num = 1;
        to_init.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
        need(ibv_modify_qp(qp_, &to_init, IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS) == 0,
             "to INIT");
        Facts own{qp_->qp_num, 77, {}}, peer{};
        ibv_query_gid(context, 1, gid_index, &own.gid);
        for (uint32_t i = 0; i < receive_slots; ++i) {
            post_receive(i);
        }
        need(::send(socket, &own, sizeof own, 0) == sizeof own, "send");
        need(::recv(socket, &peer, sizeof peer, MSG_WAITALL) == sizeof peer, "receive");
        ibv_port_attr port{};
        ibv_query_port(context, 1, &port);
        ibv_qp_attr rtr{};
        rtr.qp_state = IBV_QPS_RTR;
        rtr.path_mtu = port.active_mtu;
        rtr.dest_qp_num = peer.qpn;
        rtr.rq_psn = peer.psn;
        rtr.max_dest_rd_atomic = 1;
        rtr.min_rnr_timer = 1;
        rtr.ah_attr.port_num = 1;
        rtr.ah_attr.is_global = 1;
        rtr.ah_attr.grh.dgid = peer.gid;
        rtr.ah_attr.grh.sgid_index = gid_index;
        rtr.ah_attr.grh.hop_limit = 64;
        need(ibv_modify_qp(qp_, &rtr, IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                          IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER) == 0,
             "to RTR");
        ibv_qp_attr rts{};
        rts.qp_state = IBV_QPS_RTS;
        rts.sq_psn = own.psn;
        rts.timeout = 14;
        rts.retry_cnt = 6;
        rts.rnr_retry = 7;
        rts.max_rd_atomic = 1;
        need(ibv_modify_qp(qp_, &rts, IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                          IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC) == 0,
             "to RTS");
        char ready = 1;  // both queue pairs are in RTS
        need(::send(socket, &ready, 1, 0) == 1 && ::recv(socket, &ready, 1, MSG_WAITALL) == 1, "exchange");
    }

    // The data is in the slots, as if a program had written it there itself.
    void send(const void * data, size_t size) {
        if (size <= max_inline_) {
            while (posted_ - completed_ >= send_slots) {
                wait();
            }
            std::memcpy(send_slot(), data, size);
        }
        post_all(size);
    }
    void receive(void * data, size_t size) {
        while (size > 0) {
            while (arrived_.empty()) {
                wait();
            }
            const ibv_wc message = arrived_.front();
            arrived_.erase(arrived_.begin());
            if (size <= 256) {
                std::memcpy(data, memory_ + slot_size * message.wr_id, size);
            }
            size -= std::min<size_t>(size, message.byte_len);
            post_receive(static_cast<uint32_t>(message.wr_id));
        }
    }
    void upload(uint64_t size) { post_all(size); }

    // The same from the caller's memory, in pieces of measure::piece. copies: through the slots; registers: each piece is
    // registered while it is in flight, and sent from the caller's memory; writes: registered likewise, and written to its
    // destination at the peer.
    void upload_from(const char * source, uint64_t size, std::string_view method, uint64_t peer_address, uint32_t peer_key) {
        for (uint64_t done = 0; done < size; done += measure::piece) {
            if (method == "copies") {
                for (uint64_t at = 0; at < measure::piece; at += slot_size) {
                    while (posted_ - completed_ >= send_slots) {
                        wait();
                    }
                    std::memcpy(send_slot(), source + done + at, slot_size);
                    post(send_slot(), slot_size, mr_->lkey);
                }
                continue;
            }
            ibv_mr * piece = ibv_reg_mr(pd_, const_cast<char *>(source + done), measure::piece, 0);
            need(piece != nullptr, "ibv_reg_mr");
            const uint32_t step = method == "writes" ? measure::piece : slot_size;
            for (uint64_t at = 0; at < measure::piece; at += step) {
                while (posted_ - completed_ >= send_slots) {
                    wait();
                }
                post(const_cast<char *>(source + done + at), step, piece->lkey,
                     method == "writes" ? peer_address + done : 0, peer_key);
            }
            pieces_.push_back({posted_, piece});
            while (pieces_.size() > pieces_in_flight) {
                release_first_piece();
            }
        }
        while (!pieces_.empty()) {
            release_first_piece();
        }
    }
    void take_upload_into(char * place, uint64_t size) {
        for (uint64_t done = 0; done < size;) {
            while (arrived_.empty()) {
                wait();
            }
            const ibv_wc message = arrived_.front();
            arrived_.erase(arrived_.begin());
            std::memcpy(place + done, memory_ + slot_size * message.wr_id, message.byte_len);
            done += message.byte_len;
            post_receive(static_cast<uint32_t>(message.wr_id));
        }
    }
    ibv_mr * register_memory(void * memory, size_t size) {
        ibv_mr * mr = ibv_reg_mr(pd_, memory, size, IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
        need(mr != nullptr, "ibv_reg_mr");
        return mr;
    }
    void take_upload(uint64_t size) {
        char ignored[256];
        for (; size > slot_size; size -= slot_size) {
            receive(ignored, slot_size);
        }
        receive(ignored, size);
    }

private:
    static constexpr uint64_t send_tag = uint64_t{1} << 63;

    char * send_slot() { return memory_ + slot_size * (receive_slots + posted_ % send_slots); }

    void post_all(uint64_t size) {
        while (size > 0) {
            while (posted_ - completed_ >= send_slots) {
                wait();
            }
            const auto length = static_cast<uint32_t>(std::min<uint64_t>(size, slot_size));
            post(send_slot(), length, mr_->lkey);
            size -= length;
        }
    }

    // A send, or an RDMA WRITE to `remote` at the peer.
    void post(char * data, uint32_t length, uint32_t key, uint64_t remote = 0, uint32_t remote_key = 0) {
        ibv_sge sge{reinterpret_cast<uint64_t>(data), length, key};
        ibv_send_wr request{}, * bad = nullptr;
        request.wr_id = send_tag | ++posted_;
        request.sg_list = &sge;
        request.num_sge = 1;
        request.opcode = remote == 0 ? IBV_WR_SEND : IBV_WR_RDMA_WRITE;
        request.wr.rdma.remote_addr = remote;
        request.wr.rdma.rkey = remote_key;
        if (length <= max_inline_) {
            request.send_flags |= IBV_SEND_INLINE;
        }
        if (key != mr_->lkey || posted_ % signal_every == 0) {  // a piece is released after its last one
            request.send_flags |= IBV_SEND_SIGNALED;
        }
        need(ibv_post_send(qp_, &request, &bad) == 0, "ibv_post_send");
    }

    void release_first_piece() {
        while (completed_ < pieces_.front().last) {
            wait();
        }
        ibv_dereg_mr(pieces_.front().mr);
        pieces_.pop_front();
    }

    void post_receive(uint32_t slot) {
        ibv_sge sge{reinterpret_cast<uint64_t>(memory_ + slot_size * slot), slot_size, mr_->lkey};
        ibv_recv_wr request{}, * bad = nullptr;
        request.wr_id = slot;
        request.sg_list = &sge;
        request.num_sge = 1;
        need(ibv_post_recv(qp_, &request, &bad) == 0, "ibv_post_recv");
    }

    bool poll() {
        ibv_wc completions[16];
        const int count = ibv_poll_cq(cq_, 16, completions);
        for (const ibv_wc & completion : std::span(completions).first(static_cast<size_t>(std::max(count, 0)))) {
            if (completion.status != IBV_WC_SUCCESS) {
                measure::die(ibv_wc_status_str(completion.status));
            }
            if ((completion.wr_id & send_tag) != 0) {
                completed_ = completion.wr_id & ~send_tag;
            } else {
                arrived_.push_back(completion);
            }
        }
        return count > 0;
    }

    // Waits for a completion.
    void wait() {
        const auto spin_end = measure::Clock::now() + measure::spin;
        do {
            if (poll()) {
                return;
            }
            ::sched_yield();
        } while (measure::Clock::now() < spin_end);
        for (;;) {
            ibv_req_notify_cq(cq_, 0);
            if (poll()) {
                return;
            }
            ibv_cq * queue = nullptr;
            void * context = nullptr;
            need(ibv_get_cq_event(channel_, &queue, &context) == 0, "ibv_get_cq_event");
            ibv_ack_cq_events(queue, 1);
        }
    }

    struct Piece {
        uint64_t last;  // number of its last message
        ibv_mr * mr;
    };
    static constexpr size_t pieces_in_flight = 4;

    std::deque<Piece> pieces_;
    ibv_pd * pd_ = nullptr;
    char * memory_ = nullptr;
    ibv_mr * mr_ = nullptr;
    ibv_comp_channel * channel_ = nullptr;
    ibv_cq * cq_ = nullptr;
    ibv_qp * qp_ = nullptr;
    uint32_t max_inline_ = 0;
    uint64_t posted_ = 0, completed_ = 0;
    std::vector<ibv_wc> arrived_;
};

// Moves the caller's memory to its destination at the peer by three methods, each over its own connection.
constexpr std::string_view methods[] = {"copies", "registers", "writes"};

struct Place {
    uint64_t address;
    uint32_t key;
};

char * fresh_memory(uint64_t size) {
    char * memory = static_cast<char *>(std::aligned_alloc(4096, size));
    std::memset(memory, 'y', size);  // on both sides, so that the pages are resident
    return memory;
}

void send_ways(Line & line, uint64_t size) {
    char * source = fresh_memory(size);
    for (const std::string_view method : methods) {
        Place place{};
        line.receive(&place, sizeof place);
        const auto begin = measure::Clock::now();
        line.upload_from(source, size, method, place.address, place.key);
        char done = 'd';
        line.send(&done, 1);
        line.receive(&done, 1);
        const double seconds = std::chrono::duration<double>(measure::Clock::now() - begin).count();
        std::printf("%s %.1f\n", std::string(method).c_str(), static_cast<double>(size) / 1e6 / seconds);
    }
}

void take_ways(Line & line, uint64_t size) {
    char * memory = fresh_memory(size);
    const ibv_mr * mr = line.register_memory(memory, size);  // when a buffer is created
    for (const std::string_view method : methods) {
        const Place place{reinterpret_cast<uint64_t>(memory), mr->rkey};
        line.send(&place, sizeof place);
        if (method != "writes") {
            line.take_upload_into(memory, size);
        }
        char done = 0;
        line.receive(&done, 1);
        line.send(&done, 1);
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const std::string_view mode = argc > 1 ? argv[1] : "";
    sockaddr_in address{};
    address.sin_family = AF_INET;
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (mode == "serve" && argc == 3) {
        address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[2])));
        need(::bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0 && ::listen(fd, 4) == 0, "listen");
        std::puts("ready");
        std::fflush(stdout);
        for (;;) {
            const int client = ::accept(fd, nullptr, nullptr);
            if (::fork() == 0) {  // a process for each client: its resources are freed at its exit
                Line line(client);
                const uint64_t size = measure::answer(line);
                char more = 0;
                if (size > 0 && ::recv(client, &more, 1, 0) == 1) {
                    take_ways(line, size);
                }
                char byte;
                [[maybe_unused]] auto end = ::recv(client, &byte, 1, 0);  // the last reply has arrived
                std::_Exit(0);
            }
            ::close(client);
        }
    }
    if (mode == "connect" && argc >= 5) {
        address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[3])));
        ::inet_pton(AF_INET, argv[2], &address.sin_addr);
        need(::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) == 0, "connect");
        Line line(fd);
        const auto megabytes = static_cast<uint64_t>(std::atoi(argv[4]));
        const std::string_view only = argc > 5 ? argv[5] : "";
        measure::measure(line, megabytes, only);
        const char more = 1;
        if (only.empty() && ::send(fd, &more, 1, 0) == 1) {
            send_ways(line, megabytes << 20);
        }
        return 0;
    }
    measure::die("usage: verbs-floor serve PORT | connect IPV4 PORT MB [upload|download]");
}
