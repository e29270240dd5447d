// Set-up of one reliable connection: device, memory, completion queues, and queue pair up to state RTS. The data path is in
// ring_transport.h.
#pragma once

#include <memory>

#include "base/bytes.h"
#include "base/error.h"
#include "net/rdma/choice.h"
#include "net/rdma/verbs.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {

// The sizes of the rings. Each slot holds one message.
struct Geometry {
    uint32_t slot_size = tunable::ring_slot_size;       // of receive slots, bytes
    uint32_t depth = tunable::ring_depth;               // receive slots, and as many send slots
    uint32_t send_slot_size = tunable::ring_slot_size;  // bytes
    uint8_t rnr_retries = tunable::queue_pair_rnr_retries;
};

// The facts that the peer needs to connect to a queue pair. Sent as they are: both sides are little-endian.
#pragma pack(push, 1)
struct PeerFacts {
    uint32_t qpn = 0;
    uint32_t psn = 0;  // random, 24 bits
    uint8_t gid[16] = {};
    uint16_t lid = 0;
    uint8_t link = 0;           // 0: Ethernet; else link_infiniband, perhaps with link_needs_grh
    uint8_t traffic_class = 0;  // 0: none set
    uint32_t mtu = 0;  // bytes
    uint32_t slot_size = 0;
    uint32_t depth = 0;
};
#pragma pack(pop)
static_assert(sizeof(PeerFacts) == 40);
// Any other value than 0 is InfiniBand: peers that know no GRH ignore the bit.
inline constexpr uint8_t link_infiniband = 1, link_needs_grh = 2;

// The traffic class of both directions. Pure.
constexpr uint8_t agreed_traffic_class(uint8_t server, uint8_t client) { return server != 0 ? server : client; }

// Whether packets of this port carry a global route header (GRH): always on Ethernet. Over InfiniBand both ends must agree, so
// either end's need decides: its port requires it, or its GID is routable. Pure.
bool uses_grh(const Choice & own, const PeerFacts & peer);

// The verbs that set-up calls; tests replace them to inject failures. The data path calls verbs directly.
struct SetUpCalls {
    ibv_pd * (*alloc_pd)(ibv_context *);
    ibv_mr * (*reg_mr)(ibv_pd *, void *, size_t, int);
    ibv_comp_channel * (*create_comp_channel)(ibv_context *);
    ibv_cq * (*create_cq)(ibv_context *, int, void *, ibv_comp_channel *, int);
    ibv_qp * (*create_qp)(ibv_pd *, ibv_qp_init_attr *);
    int (*modify_qp)(ibv_qp *, ibv_qp_attr *, int);
};
const SetUpCalls & real_calls();

// The wr_id of sends during set-up. Their completions may arrive after the data path has started.
inline constexpr uint64_t set_up_send_id = uint64_t{1} << 61;

class QueuePair {
public:
    // Creates a queue pair in state INIT, without posted receives. Errors name the failed call and, for memory, the memlock
    // limit.
    static Result<std::unique_ptr<QueuePair>> create(const Choice & choice, const Geometry & geometry,
                                                     const SetUpCalls & calls = real_calls());
    ~QueuePair();
    QueuePair(const QueuePair &) = delete;
    QueuePair & operator=(const QueuePair &) = delete;

    // Posts all receive slots and moves the queue pair to RTR and RTS towards the peer. Uses the smaller of both MTUs and
    // slot sizes, and the peer's depth. `traffic_class`: the agreed one. The kernel waits for the peer's hardware address for
    // up to a second; `tries`: how often.
    Result<> connect(const PeerFacts & peer, uint8_t traffic_class, const SetUpCalls & calls = real_calls(),
                     int tries = 2);

    PeerFacts facts() const;  // with the user's traffic class, or the agreed one after connect()
    const Choice & choice() const { return choice_; }
    uint32_t qpn() const { return qp_->qp_num; }
    uint32_t peer_qpn() const { return peer_.qpn; }
    uint32_t max_inline() const { return max_inline_; }
    uint32_t mtu() const { return mtu_; }               // after connect()
    uint32_t send_slot_size() const { return send_slot_size_; }  // after connect()
    uint32_t peer_depth() const { return peer_.depth; }
    const Geometry & geometry() const { return geometry_; }

    ibv_context & context() const { return *context_; }
    ibv_qp * qp() const { return qp_.get(); }
    // Two queues, so that the completion of a send wakes up only a thread that waits for one.
    ibv_cq * send_cq() const { return send_cq_.get(); }
    ibv_cq * receive_cq() const { return receive_cq_.get(); }
    // Takes a completion of a send, otherwise of a receive: a failed send also ends the receives, which name no cause.
    int poll(ibv_wc & completion) const;
    ibv_comp_channel * channel() const { return channel_.get(); }
    MutableBytes receive_slot(uint32_t index);
    MutableBytes send_slot(uint32_t index);
    Result<> post_receive(uint32_t index);
    uint32_t lkey() const { return mr_->lkey; }

private:
    QueuePair(Choice choice, Geometry geometry);

    template <auto release>
    struct Release {
        void operator()(auto * object) const { (verbs().*release)(object); }
    };
    template <class T, auto release>
    using Owned = std::unique_ptr<T, Release<release>>;
    struct FreeMemory {
        void operator()(std::byte * memory) const { std::free(memory); }
    };

    const Choice choice_;
    const Geometry geometry_;
    // Released in reverse order.
    Owned<ibv_context, &Verbs::close_device> context_;
    Owned<ibv_pd, &Verbs::dealloc_pd> pd_;
    std::unique_ptr<std::byte, FreeMemory> memory_;  // receive slots, then send slots
    Owned<ibv_mr, &Verbs::dereg_mr> mr_;
    Owned<ibv_comp_channel, &Verbs::destroy_comp_channel> channel_;
    Owned<ibv_cq, &Verbs::destroy_cq> send_cq_, receive_cq_;
    Owned<ibv_qp, &Verbs::destroy_qp> qp_;
    uint8_t traffic_class_;
    uint32_t psn_ = 0, max_inline_ = 0, mtu_ = 0, send_slot_size_ = 0;
    PeerFacts peer_{};
};

}  // namespace caravan::net::rdma
