#include "net/rdma/queue_pair.h"

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <cstring>
#include <random>

#include "base/config.h"
#include "base/formatted.h"
#include "base/log.h"
#include "platform/address.h"
#include "platform/machine.h"
#include "tunables/rdma.h"
#include "wire/gid.h"

namespace caravan::net::rdma {
namespace {

constexpr uint8_t hop_limit = 64;

ibv_mtu mtu_code(uint32_t bytes) {
    int code = IBV_MTU_256;
    while (code < IBV_MTU_4096 && (128u << (code + 1)) <= bytes) {
        ++code;
    }
    return static_cast<ibv_mtu>(code);
}

Error cannot(const char * what) {
    const int error = errno;
    if (error == ENOMEM) {
        const auto limit = platform::locked_memory_limit();
        if (limit && !platform::is_superuser()) {
            return Error{Errc::no_memory,
                         formatted("{} failed; memlock limit {} KiB is too low: raise it (ulimit -l, or LimitMEMLOCK= "
                                   "of a service)",
                                   what, *limit >> 10),
                         {},
                         Reason::memlock_limit};
        }
    }
    return Error{Errc::unavailable, formatted("{} failed: {}", what, errno_text(error))};
}

ibv_context * open_device(const std::string & name) {
    if (!load_verbs()) {
        errno = ENOSYS;
        return nullptr;
    }
    int count = 0;
    ibv_device ** list = verbs().get_device_list(&count);
    ibv_context * context = nullptr;
    for (int i = 0; list != nullptr && i < count; ++i) {
        if (name == verbs().get_device_name(list[i])) {
            context = verbs().open_device(list[i]);
        }
    }
    if (list != nullptr) {
        verbs().free_device_list(list);
    }
    return context;
}

bool needs_grh(const Choice & own) {
    return !own.is_infiniband || own.requires_grh || !platform::is_link_local(own.gid.gid);
}

}  // namespace

bool uses_grh(const Choice & own, const PeerFacts & peer) { return needs_grh(own) || (peer.link & link_needs_grh) != 0; }

const SetUpCalls & real_calls() {
    static const SetUpCalls none{};
    if (!load_verbs()) {
        return none;  // without libibverbs there is no device
    }
    static const SetUpCalls calls{
        .alloc_pd = verbs().alloc_pd,
        .reg_mr = verbs().reg_mr,
        .create_comp_channel = verbs().create_comp_channel,
        .create_cq = verbs().create_cq,
        .create_qp = verbs().create_qp,
        .modify_qp = verbs().modify_qp,
    };
    return calls;
}

Result<std::unique_ptr<QueuePair>> QueuePair::create(const Choice & choice, const Geometry & geometry,
                                                     const SetUpCalls & calls) {
    std::unique_ptr<QueuePair> self(new QueuePair(choice, geometry));
    const auto failed = [&](const char * what) {
        const Error error = cannot(what);
        return fail(error.code, error.reason, "{}: {}", choice.device, error.text);
    };
    self->context_.reset(open_device(choice.device));
    if (self->context_ == nullptr) {
        return failed("opening the device");
    }
    self->pd_.reset(calls.alloc_pd(self->context_.get()));
    if (self->pd_ == nullptr) {
        return failed("ibv_alloc_pd");
    }
    const size_t size = (size_t{geometry.slot_size} + geometry.send_slot_size) * geometry.depth;
    self->memory_.reset(static_cast<std::byte *>(std::aligned_alloc(4096, size)));
    if (self->memory_ == nullptr) {
        return fail(Errc::no_memory, "cannot allocate memory for the rings");
    }
    std::memset(self->memory_.get(), 0, size);
    self->mr_.reset(calls.reg_mr(self->pd_.get(), self->memory_.get(), size, IBV_ACCESS_LOCAL_WRITE));
    if (self->mr_ == nullptr) {
        return failed("ibv_reg_mr");
    }
    self->channel_.reset(calls.create_comp_channel(self->context_.get()));
    if (self->channel_ == nullptr) {
        return failed("ibv_create_comp_channel");
    }
    const int completions = static_cast<int>(geometry.depth * 2);
    self->send_cq_.reset(calls.create_cq(self->context_.get(), completions, nullptr, self->channel_.get(), 0));
    self->receive_cq_.reset(calls.create_cq(self->context_.get(), completions, nullptr, self->channel_.get(), 0));
    if (self->send_cq_ == nullptr || self->receive_cq_ == nullptr) {
        return failed("ibv_create_cq");
    }
    ibv_qp_init_attr init{};
    init.send_cq = self->send_cq_.get();
    init.recv_cq = self->receive_cq_.get();
    init.qp_type = IBV_QPT_RC;
    for (const uint32_t size : tunable::ring_inline_sizes) {
        init.cap = {.max_send_wr = geometry.depth * 2, .max_recv_wr = geometry.depth, .max_send_sge = 1, .max_recv_sge = 1,
                    .max_inline_data = size};
        self->qp_.reset(calls.create_qp(self->pd_.get(), &init));
        if (self->qp_ != nullptr) {
            break;
        }
    }
    if (self->qp_ == nullptr) {
        return failed("ibv_create_qp");
    }
    self->max_inline_ = init.cap.max_inline_data;
    self->psn_ = std::random_device{}() & 0xffffff;
    ibv_qp_attr attributes{};
    attributes.qp_state = IBV_QPS_INIT;
    attributes.port_num = choice.port;
    attributes.pkey_index = choice.pkey_index;
    // Required by the peer's empty probes (RDMA WRITE of 0 bytes). No memory is exposed: no key is sent, and no region allows
    // remote writes.
    attributes.qp_access_flags = IBV_ACCESS_REMOTE_WRITE;
    errno = calls.modify_qp(self->qp_.get(), &attributes,
                            IBV_QP_STATE | IBV_QP_PKEY_INDEX | IBV_QP_PORT | IBV_QP_ACCESS_FLAGS);
    if (errno != 0) {
        return failed("moving the queue pair to INIT");
    }
    return self;
}

QueuePair::QueuePair(Choice choice, Geometry geometry)
    : choice_(std::move(choice)),
      geometry_(geometry),
      traffic_class_(static_cast<uint8_t>(env_integer(variable::rdma_traffic_class))) {}

QueuePair::~QueuePair() = default;

PeerFacts QueuePair::facts() const {
    PeerFacts facts;
    facts.qpn = qp_->qp_num;
    facts.psn = psn_;
    std::ranges::copy(choice_.gid.gid, facts.gid);
    facts.lid = choice_.lid;
    facts.link = !choice_.is_infiniband ? 0 : needs_grh(choice_) ? link_infiniband | link_needs_grh : link_infiniband;
    facts.traffic_class = traffic_class_;
    facts.mtu = choice_.mtu;
    facts.slot_size = geometry_.slot_size;
    facts.depth = geometry_.depth;
    return facts;
}

Result<> QueuePair::connect(const PeerFacts & peer, uint8_t traffic_class, const SetUpCalls & calls, int tries) {
    constexpr uint32_t least_qpn = 2;     // 0 and 1 are for the subnet's management
    constexpr uint32_t least_slot = 1024, most_slot = 16 << 20, least_depth = 8, most_depth = 4096;
    if (peer.slot_size < least_slot || peer.slot_size > most_slot || peer.depth < least_depth ||
        peer.depth > most_depth || peer.mtu < 256 || peer.qpn < least_qpn || peer.qpn > 0xffffff ||
        peer.psn > 0xffffff || wire::is_shared_gid(peer.gid)) {
        return fail(Errc::protocol, "the peer's queue pair parameters are invalid");
    }
    if ((peer.link != 0) != choice_.is_infiniband) {
        return fail(Errc::unsupported, "one end is on InfiniBand, the other on Ethernet");
    }
    peer_ = peer;
    traffic_class_ = traffic_class;
    send_slot_size_ = std::min<uint32_t>(peer.slot_size, geometry_.send_slot_size);
    const ibv_mtu mtu = mtu_code(std::min<uint32_t>(peer.mtu, choice_.mtu));
    mtu_ = 128u << mtu;

    ibv_qp_attr rtr{};
    rtr.qp_state = IBV_QPS_RTR;
    rtr.path_mtu = mtu;
    rtr.dest_qp_num = peer.qpn;
    rtr.rq_psn = peer.psn;
    rtr.max_dest_rd_atomic = 1;
    rtr.min_rnr_timer = tunable::queue_pair_rnr_timer;
    rtr.ah_attr.port_num = choice_.port;
    rtr.ah_attr.dlid = peer.lid;
    rtr.ah_attr.sl = static_cast<uint8_t>(env_integer(variable::rdma_service_level));
    rtr.ah_attr.is_global = uses_grh(choice_, peer) ? 1 : 0;
    std::memcpy(rtr.ah_attr.grh.dgid.raw, peer.gid, sizeof peer.gid);
    rtr.ah_attr.grh.sgid_index = static_cast<uint8_t>(choice_.gid.index);
    rtr.ah_attr.grh.hop_limit = hop_limit;
    rtr.ah_attr.grh.traffic_class = traffic_class_;
    const auto to_rtr = [&] {
        return calls.modify_qp(qp_.get(), &rtr,
                               IBV_QP_STATE | IBV_QP_AV | IBV_QP_PATH_MTU | IBV_QP_DEST_QPN | IBV_QP_RQ_PSN |
                                   IBV_QP_MAX_DEST_RD_ATOMIC | IBV_QP_MIN_RNR_TIMER);
    };
    int rtr_error = to_rtr();
    for (int tried = 1; rtr_error == ETIMEDOUT && tried < tries; ++tried) {
        rtr_error = to_rtr();  // the kernel did not resolve the peer's hardware address in time; it may have by now
    }
    if (rtr_error != 0) {
        Gid peer_gid;
        std::ranges::copy(peer.gid, peer_gid.begin());
        return fail(Errc::unavailable, Reason::no_rdma_path, "{}: moving the queue pair to RTR failed: {} (peer's GID {})",
                    choice_.device, errno_text(rtr_error), platform::text_of(peer_gid));
    }
    for (uint32_t i = 0; i < geometry_.depth; ++i) {
        if (auto posted = post_receive(i); !posted) {
            return posted;
        }
    }
    ibv_qp_attr rts{};
    rts.qp_state = IBV_QPS_RTS;
    rts.sq_psn = psn_;
    rts.timeout = static_cast<uint8_t>(env_integer(variable::rdma_timeout));
    rts.retry_cnt = static_cast<uint8_t>(env_integer(variable::rdma_retry));
    rts.rnr_retry = geometry_.rnr_retries;
    rts.max_rd_atomic = 1;
    const int rts_error = calls.modify_qp(qp_.get(), &rts,
                                          IBV_QP_STATE | IBV_QP_TIMEOUT | IBV_QP_RETRY_CNT | IBV_QP_RNR_RETRY |
                                              IBV_QP_SQ_PSN | IBV_QP_MAX_QP_RD_ATOMIC);
    if (rts_error != 0) {
        return fail(Errc::unavailable, "{}: moving the queue pair to RTS failed: {}", choice_.device,
                    errno_text(rts_error));
    }
    log_debug("RDMA path: traffic class {}, service level {}, partition key {}, {} a GRH", traffic_class_, rtr.ah_attr.sl,
              choice_.pkey_index, rtr.ah_attr.is_global != 0 ? "with" : "without");
    return {};
}

MutableBytes QueuePair::receive_slot(uint32_t index) {
    return {memory_.get() + size_t{index} * geometry_.slot_size, geometry_.slot_size};
}

MutableBytes QueuePair::send_slot(uint32_t index) {
    return {memory_.get() + size_t{geometry_.depth} * geometry_.slot_size + size_t{index} * geometry_.send_slot_size,
            geometry_.send_slot_size};
}

int QueuePair::poll(ibv_wc & completion) const {
    const int sent = ibv_poll_cq(send_cq(), 1, &completion);
    return sent > 0 ? sent : ibv_poll_cq(receive_cq(), 1, &completion);
}

Result<> QueuePair::post_receive(uint32_t index) {
    const MutableBytes slot = receive_slot(index);
    ibv_sge sge{reinterpret_cast<uint64_t>(slot.data()), static_cast<uint32_t>(slot.size()), mr_->lkey};
    ibv_recv_wr request{};
    request.wr_id = index;
    request.sg_list = &sge;
    request.num_sge = 1;
    ibv_recv_wr * bad = nullptr;
    const int error = ibv_post_recv(qp_.get(), &request, &bad);
    if (error != 0) {
        return fail(Errc::io, "{}: posting a receive failed: {}", choice_.device, errno_text(error));
    }
    return {};
}

}  // namespace caravan::net::rdma
