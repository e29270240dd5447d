// Set-up of a queue pair, with failures injected into each of its calls. Skipped without an RDMA device;
// tests/rdma/test_hostile.py runs it in a lab machine, on Soft-RoCE.
#ifdef GGML_RPC_RDMA
#include <gtest/gtest.h>
#include <stdlib.h>

#include <algorithm>
#include <cerrno>

#include "net/rdma/queue_pair.h"

namespace caravan::net::rdma {
namespace {

int modify_calls_left = 0;

int modify_until_it_fails(ibv_qp * qp, ibv_qp_attr * attributes, int mask) {
    if (modify_calls_left-- > 0) {
        return verbs().modify_qp(qp, attributes, mask);
    }
    errno = EINVAL;
    return EINVAL;
}

SetUpCalls failing_modify(int calls_before) {
    modify_calls_left = calls_before;
    SetUpCalls calls = real_calls();
    calls.modify_qp = modify_until_it_fails;
    return calls;
}

class RdmaSetUp : public testing::Test {
protected:
    void SetUp() override {
        const auto ports = scan_ports();
        const auto port = std::ranges::find_if(ports, [](const PortFacts & facts) {
            return facts.is_active && !facts.gids.empty();
        });
        if (port == ports.end()) {
            GTEST_SKIP() << "no RDMA device";
        }
        // The last GID is not link-local if the port has another one.
        choice = {.device = port->device, .port = port->port, .is_infiniband = port->is_infiniband, .lid = port->lid,
                  .mtu = port->mtu, .gid = port->gids.back()};
    }
    std::string refusal(const SetUpCalls & calls) const {
        auto pair = QueuePair::create(choice, geometry, calls);
        EXPECT_FALSE(pair);
        return pair ? "" : pair.error().text;
    }
    std::string refusal_to_connect(const PeerFacts & facts, const SetUpCalls & calls = real_calls()) const {
        auto pair = QueuePair::create(choice, geometry);
        EXPECT_TRUE(pair);
        auto connected = (*pair)->connect(facts, 0, calls);
        EXPECT_FALSE(connected);
        return connected ? "" : connected.error().text;
    }
    // The parameters of a valid peer.
    PeerFacts peer() const {
        auto other = QueuePair::create(choice, geometry);
        EXPECT_TRUE(other);
        return (*other)->facts();
    }

    Choice choice;
    Geometry geometry{4096, 16};
};

TEST(RdmaPath, TheServersTrafficClassTakesPrecedence) {
    EXPECT_EQ(agreed_traffic_class(0, 0), 0);
    EXPECT_EQ(agreed_traffic_class(0, 106), 106);
    EXPECT_EQ(agreed_traffic_class(106, 0), 106);
    EXPECT_EQ(agreed_traffic_class(106, 32), 106);
    const uint8_t agreed = agreed_traffic_class(0, 106);  // at the server, which replies with it
    EXPECT_EQ(agreed_traffic_class(agreed, 106), agreed) << "at the client";
}

TEST(RdmaPath, GlobalRouteHeader) {
    Choice link_local{.is_infiniband = true};
    link_local.gid.gid = {0xfe, 0x80};
    Choice ethernet = link_local, required = link_local, routable = link_local;
    ethernet.is_infiniband = false;
    required.requires_grh = true;
    routable.gid.gid = {0xfd, 0x77};
    const PeerFacts plain{.link = link_infiniband}, needing{.link = link_infiniband | link_needs_grh};
    EXPECT_TRUE(uses_grh(ethernet, PeerFacts{}));
    EXPECT_FALSE(uses_grh(link_local, plain));
    EXPECT_TRUE(uses_grh(link_local, needing));
    EXPECT_TRUE(uses_grh(required, plain));
    EXPECT_TRUE(uses_grh(routable, plain));
}

TEST_F(RdmaSetUp, FactsHaveTheAgreedTrafficClass) {
    ::setenv("GGML_RDMA_TC", "106", 1);
    auto pair = QueuePair::create(choice, geometry);
    ::unsetenv("GGML_RDMA_TC");
    ASSERT_TRUE(pair);
    EXPECT_EQ((*pair)->facts().traffic_class, 106);
    ASSERT_TRUE((*pair)->connect(peer(), 32));
    EXPECT_EQ((*pair)->facts().traffic_class, 32);
}

TEST_F(RdmaSetUp, SetsTheAttributesOfThePath) {
    static ibv_qp_attr init, rtr;  // as given to the driver: Soft-RoCE ignores partition key and service level
    SetUpCalls calls = real_calls();
    calls.modify_qp = [](ibv_qp * qp, ibv_qp_attr * attributes, int mask) {
        (attributes->qp_state == IBV_QPS_INIT ? init : attributes->qp_state == IBV_QPS_RTR ? rtr : *attributes) = *attributes;
        return verbs().modify_qp(qp, attributes, mask);
    };
    choice.pkey_index = 3;
    ::setenv("GGML_RDMA_SL", "5", 1);
    auto pair = QueuePair::create(choice, geometry, calls);
    const auto connected = pair ? (*pair)->connect(peer(), 106, calls) : std::unexpected(pair.error());
    ::unsetenv("GGML_RDMA_SL");
    ASSERT_TRUE(connected) << connected.error().text;
    EXPECT_EQ(init.pkey_index, 3);
    EXPECT_EQ(rtr.ah_attr.sl, 5);
    EXPECT_EQ(rtr.ah_attr.is_global, 1);
    EXPECT_EQ(rtr.ah_attr.grh.traffic_class, 106);
}

TEST(RdmaSetUpNoDevice, MissingDeviceIsAnError) {
    auto pair = QueuePair::create({.device = "mlx5_99"}, {});
    ASSERT_FALSE(pair);
    EXPECT_TRUE(pair.error().text.starts_with("mlx5_99: opening the device failed")) << pair.error().text;
}

TEST_F(RdmaSetUp, ConnectsWithoutFailures) {
    auto one = QueuePair::create(choice, geometry), two = QueuePair::create(choice, geometry);
    ASSERT_TRUE(one && two);
    const auto connected = (*one)->connect((*two)->facts(), 0);
    ASSERT_TRUE(connected) << connected.error().text;
    EXPECT_EQ((*one)->mtu(), choice.mtu);
    EXPECT_EQ((*one)->send_slot_size(), geometry.slot_size);
    EXPECT_EQ((*one)->peer_qpn(), (*two)->qpn());
}

TEST_F(RdmaSetUp, NamesTheFailedCall) {
    SetUpCalls calls = real_calls();
    calls.alloc_pd = [](ibv_context *) -> ibv_pd * { errno = EPERM; return nullptr; };
    EXPECT_EQ(refusal(calls), choice.device + ": ibv_alloc_pd failed: Operation not permitted");

    calls = real_calls();
    calls.reg_mr = [](ibv_pd *, void *, size_t, int) -> ibv_mr * { errno = EFAULT; return nullptr; };
    EXPECT_EQ(refusal(calls), choice.device + ": ibv_reg_mr failed: Bad address");

    calls = real_calls();
    calls.create_comp_channel = [](ibv_context *) -> ibv_comp_channel * { errno = EMFILE; return nullptr; };
    EXPECT_EQ(refusal(calls), choice.device + ": ibv_create_comp_channel failed: Too many open files");

    calls = real_calls();
    calls.create_cq = [](ibv_context *, int, void *, ibv_comp_channel *, int) -> ibv_cq * {
        errno = EINVAL;
        return nullptr;
    };
    EXPECT_EQ(refusal(calls), choice.device + ": ibv_create_cq failed: Invalid argument");

    calls = real_calls();
    calls.create_qp = [](ibv_pd *, ibv_qp_init_attr *) -> ibv_qp * { errno = ENOSYS; return nullptr; };
    EXPECT_EQ(refusal(calls), choice.device + ": ibv_create_qp failed: Function not implemented");

    EXPECT_EQ(refusal(failing_modify(0)), choice.device + ": moving the queue pair to INIT failed: Invalid argument");
}

TEST_F(RdmaSetUp, WorksWithoutInlineData) {
    SetUpCalls calls = real_calls();
    calls.create_qp = [](ibv_pd * pd, ibv_qp_init_attr * init) -> ibv_qp * {
        if (init->cap.max_inline_data > 0) {
            errno = EINVAL;
            return nullptr;
        }
        return verbs().create_qp(pd, init);
    };
    EXPECT_TRUE(QueuePair::create(choice, geometry, calls));
}

TEST_F(RdmaSetUp, NamesTheFailedTransition) {
    EXPECT_EQ(refusal_to_connect(peer(), failing_modify(0)),
              formatted("{}: moving the queue pair to RTR failed: Invalid argument (peer's GID {})", choice.device,
                        text_of(choice.gid.gid)));
    EXPECT_EQ(refusal_to_connect(peer(), failing_modify(1)),
              choice.device + ": moving the queue pair to RTS failed: Invalid argument");
}

TEST_F(RdmaSetUp, RefusesInvalidPeerParameters) {
    const std::string invalid = "the peer's queue pair parameters are invalid";
    const auto with = [&](auto change) {
        PeerFacts facts = peer();
        change(facts);
        return refusal_to_connect(facts);
    };
    EXPECT_EQ(with([](PeerFacts & facts) { facts.slot_size = 0; }), invalid);
    EXPECT_EQ(with([](PeerFacts & facts) { facts.slot_size = 1 << 30; }), invalid);
    EXPECT_EQ(with([](PeerFacts & facts) { facts.depth = 1; }), invalid);
    EXPECT_EQ(with([](PeerFacts & facts) { facts.depth = UINT32_MAX; }), invalid);
    EXPECT_EQ(with([](PeerFacts & facts) { facts.mtu = 0; }), invalid);
    EXPECT_EQ(with([](PeerFacts & facts) { facts.qpn = UINT32_MAX; }), invalid);
    EXPECT_EQ(with([](PeerFacts & facts) { facts.psn = 1 << 24; }), invalid);
    EXPECT_EQ(with([](PeerFacts & facts) { facts.link ^= 1; }),
              "one end is on InfiniBand, the other on Ethernet");
}

TEST_F(RdmaSetUp, UsesTheSmallerMtuAndSlotSize) {
    auto pair = QueuePair::create(choice, geometry);
    ASSERT_TRUE(pair);
    PeerFacts facts = peer();
    facts.mtu = 1000;  // rounded down to 512
    facts.slot_size = 2048;
    facts.depth = 9;
    const auto connected = (*pair)->connect(facts, 0);
    ASSERT_TRUE(connected) << connected.error().text;
    EXPECT_EQ((*pair)->mtu(), 512u);
    EXPECT_EQ((*pair)->send_slot_size(), 2048u);
    EXPECT_EQ((*pair)->peer_depth(), 9u);
}

}  // namespace
}  // namespace caravan::net::rdma
#endif
