// The choice of device, port and GID, with made-up ports: no RDMA device is needed.
#ifdef GGML_RPC_RDMA
#include <arpa/inet.h>
#include <gtest/gtest.h>
#include <stdlib.h>
#include <sys/socket.h>

#include "net/no_rdma.h"
#include "net/rdma/choice.h"
#include "net/socket.h"

namespace caravan::net::rdma {
namespace {

using Type = GidEntry::Type;

Gid gid(const char * text) {
    Gid out{};
    EXPECT_EQ(inet_pton(AF_INET6, text, out.data()), 1) << text;
    return out;
}

// A RoCE adapter with one IPv4 and one IPv6 address.
PortFacts ethernet(std::string device, const char * v4, const char * v6 = "fd77::9") {
    PortFacts port{.device = std::move(device), .port = 1, .is_active = true, .mtu = 4096};
    port.gids = {{gid("fe80::1"), 0, Type::roce_v1},
                 {gid("fe80::1"), 1, Type::roce_v2},
                 {gid(v4), 2, Type::roce_v1},
                 {gid(v4), 3, Type::roce_v2},
                 {gid(v6), 5, Type::roce_v2}};
    return port;
}

PortFacts infiniband(std::string device, uint16_t lid) {
    return {.device = std::move(device), .port = 1, .is_active = true, .is_infiniband = true, .lid = lid, .mtu = 2048,
            .gids = {{gid("fe80::2:c903:ef:1"), 0, Type::infiniband}}};
}

Criteria at(const char * address) { return {.local_address = gid(address)}; }

std::string refusal(const std::vector<PortFacts> & ports, const Criteria & criteria) {
    auto choice = choose(ports, criteria);
    EXPECT_FALSE(choice) << choice->device;
    if (choice) {
        return "";
    }
    EXPECT_EQ(reason_in(choice.error().text), choice.error().reason) << "clients read it from the text";
    return choice.error().text;
}

TEST(RdmaChoice, ReportsWhetherAnyPortIsUsable) {
    PortFacts down = ethernet("mlx5_0", "::ffff:10.0.0.2");
    down.is_active = false;
    EXPECT_EQ(why_none_is_active({}), "no RDMA device");
    EXPECT_EQ(why_none_is_active({down}), "mlx5_0 port 1 is not active");
    EXPECT_EQ(why_none_is_active({down, ethernet("mlx5_1", "::ffff:10.0.0.3")}), "");
}

TEST(RdmaChoice, NamesADeviceThatCannotBeOpened) {
    const PortFacts closed{.device = "mlx5_0", .why_closed = "Permission denied", .gids = {}};
    const std::string reason = "cannot open RDMA device mlx5_0: Permission denied";
    EXPECT_EQ(why_none_is_active({closed}), reason);
    EXPECT_EQ(refusal({closed}, at("::ffff:10.0.0.2")), reason);
    const std::vector ports{closed, ethernet("mlx5_1", "::ffff:10.0.0.2")};
    EXPECT_EQ(why_none_is_active(ports), "");
    EXPECT_EQ(choose(ports, at("::ffff:10.0.0.2"))->device, "mlx5_1");
}

TEST(RdmaChoice, ChoosesTheGidOfTheConnectionsAddress) {
    const auto choice = choose({ethernet("mlx5_0", "::ffff:10.0.0.2")}, at("::ffff:10.0.0.2"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->device, "mlx5_0");
    EXPECT_EQ(choice->port, 1);
    EXPECT_EQ(choice->mtu, 4096u);
    EXPECT_FALSE(choice->is_infiniband);
    EXPECT_EQ(choice->gid.gid, gid("::ffff:10.0.0.2"));
}

TEST(RdmaChoice, PrefersRoceV2InAnyOrder) {
    PortFacts port = ethernet("mlx5_0", "::ffff:10.0.0.2");
    EXPECT_EQ(choose({port}, at("::ffff:10.0.0.2"))->gid.index, 3u);
    std::ranges::reverse(port.gids);
    EXPECT_EQ(choose({port}, at("::ffff:10.0.0.2"))->gid.index, 3u);
}

TEST(RdmaChoice, FallsBackToRoceV1) {
    PortFacts port = ethernet("mlx4_0", "::ffff:10.0.0.2");
    std::erase_if(port.gids, [](const GidEntry & entry) { return entry.type == Type::roce_v2; });
    const auto choice = choose({port}, at("::ffff:10.0.0.2"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->gid.type, Type::roce_v1);
}

TEST(RdmaChoice, IPv6) {
    const auto choice = choose({ethernet("mlx5_0", "::ffff:10.0.0.2", "fd77::2")}, at("fd77::2"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->gid.index, 5u);
}

TEST(RdmaChoice, ChoosesALinkLocalGidForALinkLocalConnection) {
    const auto choice = choose({ethernet("mlx5_0", "::ffff:10.0.0.2")}, at("fe80::1"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->gid.index, 1u);
}

TEST(RdmaChoice, ChoosesTheMatchingDevice) {
    const std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2"), ethernet("mlx5_1", "::ffff:10.0.1.2")};
    EXPECT_EQ(choose(ports, at("::ffff:10.0.0.2"))->device, "mlx5_0");
    EXPECT_EQ(choose(ports, at("::ffff:10.0.1.2"))->device, "mlx5_1");
}

TEST(RdmaChoice, ChoosesTheMatchingPort) {
    std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2"), ethernet("mlx5_0", "::ffff:10.0.1.2")};
    ports[1].port = 2;
    EXPECT_EQ(choose(ports, at("::ffff:10.0.1.2"))->port, 2);
}

TEST(RdmaChoice, SkipsInactivePorts) {
    std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2"), ethernet("mlx5_1", "::ffff:10.0.0.2")};
    ports[0].is_active = false;
    EXPECT_EQ(choose(ports, at("::ffff:10.0.0.2"))->device, "mlx5_1");
    ports.pop_back();
    EXPECT_EQ(refusal(ports, at("::ffff:10.0.0.2")), "mlx5_0 port 1 is not active");
}

TEST(RdmaChoice, ErrorListsTheGidsOfThePort) {
    EXPECT_EQ(refusal({ethernet("mlx5_0", "::ffff:10.0.0.2", "fd77::2")}, at("::ffff:192.168.1.9")),
              "no GID for 192.168.1.9 on mlx5_0: found 10.0.0.2, 10.0.0.2, fd77::2");
}

TEST(RdmaChoice, ErrorOmitsLinkLocalAndEmptyGids) {
    PortFacts port = ethernet("mlx5_0", "::ffff:10.0.0.2");
    port.gids = {{gid("fe80::1"), 0, Type::roce_v2}, {Gid{}, 1, Type::roce_v2}};
    EXPECT_EQ(refusal({port}, at("::ffff:192.168.1.9")), "no GID for 192.168.1.9 on mlx5_0: found none");
}

TEST(RdmaChoice, ReportsTheFirstReason) {
    std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2"), ethernet("mlx5_1", "::ffff:10.0.1.2")};
    ports[0].is_active = false;
    EXPECT_EQ(refusal(ports, at("::ffff:9.9.9.9")), "mlx5_0 port 1 is not active");
}

TEST(RdmaChoice, NoDevice) { EXPECT_EQ(refusal({}, at("::ffff:10.0.0.2")), "no RDMA device"); }

TEST(RdmaChoice, ErrorsHaveReasons) {
    const auto reason = [](const std::vector<PortFacts> & ports, const Criteria & criteria) {
        return choose(ports, criteria).error().reason;
    };
    std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2")};
    EXPECT_EQ(reason({}, at("::ffff:10.0.0.2")), Reason::no_rdma_device);
    EXPECT_EQ(reason(ports, at("::ffff:9.9.9.9")), Reason::no_rdma_gid);
    EXPECT_EQ(reason(ports, {.device = "mlx5_7"}), Reason::rdma_setting);
    EXPECT_EQ(reason(ports, {.gid = 4}), Reason::rdma_setting);
    EXPECT_EQ(reason(ports, {.port = 3}), Reason::rdma_setting);
    EXPECT_EQ(reason(ports, {}), Reason::unspecified) << "no advice for a connection without an address";
    ports[0].is_active = false;
    EXPECT_EQ(reason(ports, at("::ffff:10.0.0.2")), Reason::rdma_port_inactive);
}

TEST(RdmaChoice, NoDeviceTakesPrecedenceOverTheRequestedDevice) {
    EXPECT_EQ(refusal({}, {.device = "mlx5_0", .local_address = gid("::ffff:10.0.0.2")}), "no RDMA device");
}

TEST(RdmaChoice, NoAddress) {
    EXPECT_EQ(refusal({ethernet("mlx5_0", "::ffff:10.0.0.2")}, {}), "the connection has no IP address");
}

TEST(RdmaChoice, RequestedDevice) {
    const std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2"), ethernet("mlx5_1", "::ffff:10.0.0.2")};
    Criteria criteria = at("::ffff:10.0.0.2");
    criteria.device = "mlx5_1";
    EXPECT_EQ(choose(ports, criteria)->device, "mlx5_1");
    criteria.device = "mlx5_7";
    EXPECT_EQ(refusal(ports, criteria), "GGML_RDMA_DEV=mlx5_7 is not among the RDMA devices: mlx5_0, mlx5_1");
}

TEST(RdmaChoice, DoesNotReplaceTheRequestedDevice) {
    const std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2"), ethernet("mlx5_1", "::ffff:10.0.1.2")};
    Criteria criteria = at("::ffff:10.0.0.2");
    criteria.device = "mlx5_1";
    EXPECT_TRUE(refusal(ports, criteria).starts_with("no GID for 10.0.0.2 on mlx5_1"));
}

TEST(RdmaChoice, RequestedGidIsUsedUnchecked) {
    Criteria criteria = at("::ffff:10.0.0.2");
    criteria.gid = 0;
    const std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2")};
    const auto choice = choose(ports, criteria);
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->gid.gid, gid("fe80::1"));
    EXPECT_EQ(choice->gid.type, Type::roce_v1);
    criteria.local_address.reset();  // for example, a Unix socket
    EXPECT_TRUE(choose(ports, criteria));
    criteria.gid = 4;  // a hole in the table
    EXPECT_EQ(refusal(ports, criteria), "GGML_RDMA_GID=4 is not in the GID table of mlx5_0 port 1");
}

TEST(RdmaChoice, RequestedPort) {
    std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2"), ethernet("mlx5_0", "::ffff:10.0.0.2")};
    ports[1].port = 2;
    Criteria criteria = at("::ffff:10.0.0.2");
    criteria.port = 2;
    EXPECT_EQ(choose(ports, criteria)->port, 2);
    criteria.port = 3;
    EXPECT_EQ(refusal(ports, criteria), "GGML_RDMA_PORT=3 does not exist");
}

TEST(RdmaChoice, InfiniBandIsAddressedByLid) {
    const auto choice = choose({infiniband("mlx5_0", 17)}, at("::ffff:10.0.0.2"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_TRUE(choice->is_infiniband);
    EXPECT_EQ(choice->lid, 17);
    EXPECT_EQ(choice->gid.index, 0u);
}

TEST(RdmaChoice, ExactAddressBeatsAnEarlierInfiniBandPort) {
    const auto choice =
        choose({infiniband("mlx5_0", 17), ethernet("mlx5_1", "::ffff:10.0.1.2"), ethernet("mlx5_2", "::ffff:10.0.0.2")},
               at("::ffff:10.0.0.2"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->device, "mlx5_2");
    EXPECT_FALSE(choice->is_infiniband);
}

TEST(RdmaChoice, RoceV2OfALaterDeviceBeatsRoceV1) {
    PortFacts v1 = ethernet("mlx4_0", "::ffff:10.0.0.2");
    std::erase_if(v1.gids, [](const GidEntry & entry) { return entry.type == Type::roce_v2; });
    const auto choice = choose({v1, ethernet("mlx5_0", "::ffff:10.0.0.2")}, at("::ffff:10.0.0.2"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->device, "mlx5_0");
    EXPECT_EQ(choice->gid.type, Type::roce_v2);
}

TEST(RdmaChoice, AddressThatIsDownIsNotReplacedByInfiniBand) {
    std::vector<PortFacts> ports{infiniband("mlx5_0", 17), ethernet("mlx5_1", "::ffff:10.0.0.2")};
    ports[1].is_active = false;
    EXPECT_EQ(refusal(ports, at("::ffff:10.0.0.2")), "mlx5_1 port 1 is not active");
    EXPECT_EQ(choose(ports, at("::ffff:10.9.9.9"))->device, "mlx5_0") << "an address of another network";
}

TEST(RdmaChoice, SkipsInfiniBandPortsThatAreDownOrHaveNoGid) {
    std::vector<PortFacts> ports{infiniband("mlx5_0", 1), infiniband("mlx5_1", 2), infiniband("mlx5_2", 3)};
    ports[0].is_active = false;
    ports[1].gids.clear();
    const auto choice = choose(ports, at("::ffff:10.0.0.2"));
    ASSERT_TRUE(choice) << choice.error().text;
    EXPECT_EQ(choice->device, "mlx5_2");
    EXPECT_EQ(choice->lid, 3);
}

// A row is one machine: where the connection's address is, and what must be chosen.
struct Machine {
    const char * name;
    std::vector<PortFacts> ports;
    const char * address;
    const char * device;
    uint8_t port;
    uint32_t gid;
};

PortFacts with_gids(PortFacts port, std::vector<GidEntry> gids) {
    port.gids = std::move(gids);
    return port;
}

PortFacts second_port(PortFacts port) {
    port.port = 2;
    return port;
}

PortFacts down(PortFacts port) {
    port.is_active = false;
    return port;
}

TEST(RdmaChoice, Machines) {
    const Machine machines[] = {
        // The bond of both ports is one RDMA device with the bond's address.
        {"bond", {ethernet("mlx5_bond_0", "::ffff:10.0.0.2")}, "::ffff:10.0.0.2", "mlx5_bond_0", 1, 3},
        // Without a common device, the driver lists the bond's address at its active member.
        {"bond without a common device",
         {with_gids(ethernet("mlx5_0", "::ffff:10.0.0.2"), {{gid("fe80::1"), 0, Type::roce_v2}}),
          ethernet("mlx5_1", "::ffff:10.0.0.2")},
         "::ffff:10.0.0.2", "mlx5_1", 1, 3},
        {"bond whose first member is down",
         {down(ethernet("mlx5_0", "::ffff:10.0.0.2")), ethernet("mlx5_1", "::ffff:10.0.0.2")},
         "::ffff:10.0.0.2", "mlx5_1", 1, 3},
        // A VLAN's address is a further GID of the port.
        {"VLAN",
         {with_gids(ethernet("mlx5_0", "::ffff:10.0.0.2"), {{gid("::ffff:10.0.0.2"), 2, Type::roce_v1},
                                                            {gid("::ffff:10.0.0.2"), 3, Type::roce_v2},
                                                            {gid("::ffff:10.100.0.2"), 6, Type::roce_v1},
                                                            {gid("::ffff:10.100.0.2"), 7, Type::roce_v2}})},
         "::ffff:10.100.0.2", "mlx5_0", 1, 7},
        {"two ports", {ethernet("mlx5_0", "::ffff:10.0.0.2"), second_port(ethernet("mlx5_0", "::ffff:10.0.1.2"))},
         "::ffff:10.0.1.2", "mlx5_0", 2, 3},
        {"IPv6 on the second device",
         {ethernet("mlx5_0", "::ffff:10.0.0.2", "fd77::2"), ethernet("mlx5_1", "::ffff:10.0.1.2", "fd78::2")},
         "fd78::2", "mlx5_1", 1, 5},
        {"InfiniBand and Ethernet on one adapter",
         {infiniband("mlx5_0", 9), second_port(ethernet("mlx5_0", "::ffff:10.0.0.2"))}, "::ffff:10.0.0.2", "mlx5_0", 2, 3},
        {"InfiniBand last", {ethernet("mlx5_0", "::ffff:10.0.0.2"), infiniband("mlx5_1", 9)},
         "::ffff:192.168.0.2", "mlx5_1", 1, 0},
    };
    for (const Machine & machine : machines) {
        const auto choice = choose(machine.ports, at(machine.address));
        ASSERT_TRUE(choice) << machine.name << ": " << choice.error().text;
        EXPECT_EQ(choice->device, machine.device) << machine.name;
        EXPECT_EQ(choice->port, machine.port) << machine.name;
        EXPECT_EQ(choice->gid.index, machine.gid) << machine.name;
    }
}

TEST(RdmaChoice, RequestedGidSkipsPortsThatAreDown) {
    Criteria criteria;
    criteria.gid = 3;
    EXPECT_EQ(choose({down(ethernet("mlx5_0", "::ffff:10.0.0.2")), ethernet("mlx5_1", "::ffff:10.0.1.2")}, criteria)->device,
              "mlx5_1");
    EXPECT_EQ(refusal({down(ethernet("mlx5_0", "::ffff:10.0.0.2"))}, criteria), "mlx5_0 port 1 is not active");
}

TEST(RdmaChoice, PartitionKey) {
    std::vector<PortFacts> ports{infiniband("mlx5_0", 17)};
    ports[0].pkeys = 128;
    Criteria criteria = at("::ffff:10.0.0.2");
    EXPECT_EQ(choose(ports, criteria)->pkey_index, 0);
    criteria.pkey_index = 127;
    EXPECT_EQ(choose(ports, criteria)->pkey_index, 127);
    criteria.pkey_index = 128;
    EXPECT_EQ(refusal(ports, criteria), "GGML_RDMA_PKEY=128 is beyond the 128 partition keys of mlx5_0 port 1");
}

TEST(RdmaCriteria, AddressOfTheSocket) {
    auto listeners = listen_on("127.0.0.1", 0);
    ASSERT_TRUE(listeners) << listeners.error().text;
    auto socket = connect_socket(listeners->front().endpoint, Clock::now() + seconds(5));
    ASSERT_TRUE(socket) << socket.error().text;
    const Criteria criteria = criteria_from_environment(socket->get());
    ASSERT_TRUE(criteria.local_address);
    EXPECT_EQ(*criteria.local_address, gid("::ffff:127.0.0.1"));
    EXPECT_EQ(text_of(*criteria.local_address), "127.0.0.1");
}

TEST(RdmaCriteria, AUnixSocketHasNoAddress) {
    int ends[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const UniqueFd near(ends[0]), far(ends[1]);
    EXPECT_FALSE(criteria_from_environment(near.get()).local_address);
}

TEST(RdmaCriteria, Environment) {
    ::setenv("GGML_RDMA_DEV", "mlx5_3", 1);
    ::setenv("GGML_RDMA_GID", "0", 1);
    ::setenv("GGML_RDMA_PORT", "2", 1);
    ::setenv("GGML_RDMA_PKEY", "7", 1);
    const Criteria criteria = criteria_from_environment(-1);
    ::setenv("GGML_RDMA_DEV", "", 1);
    ::setenv("GGML_RDMA_GID", "three", 1);
    ::setenv("GGML_RDMA_PORT", "0", 1);
    ::setenv("GGML_RDMA_PKEY", "65536", 1);
    const Criteria nothing = criteria_from_environment(-1);
    for (const char * name : {"GGML_RDMA_DEV", "GGML_RDMA_GID", "GGML_RDMA_PORT", "GGML_RDMA_PKEY"}) {
        ::unsetenv(name);
    }
    EXPECT_EQ(criteria.device, "mlx5_3");
    EXPECT_EQ(criteria.gid, 0u);
    EXPECT_EQ(criteria.port, 2u);
    EXPECT_EQ(criteria.pkey_index, 7);
    EXPECT_EQ(nothing.pkey_index, 0);
    EXPECT_FALSE(nothing.device || nothing.gid || nothing.port || nothing.local_address);
}

// Two adapters with two networks, as of a machine whose adapter has two PCIe functions.
struct Rails : testing::Test {
    std::vector<PortFacts> ports{ethernet("mlx5_0", "::ffff:10.0.0.2", "fd70::2"),
                                 ethernet("mlx5_1", "::ffff:10.0.1.2", "fd71::2")};
    std::vector<platform::InterfaceAddress> addresses{
        {gid("::ffff:10.0.0.2"), 120}, {gid("fd70::2"), 64}, {gid("::ffff:10.0.1.2"), 120}, {gid("fd71::2"), 64}};
    Criteria criteria = at("::ffff:10.0.0.2");

    Choice first() const { return choose(ports, criteria).value(); }
    // "device/GID" of each.
    std::vector<std::string> offered() const {
        std::vector<std::string> out;
        for (const Choice & choice : choose_rails(ports, criteria, first(), addresses)) {
            out.push_back(choice.device + "/" + text_of(choice.gid.gid));
        }
        return out;
    }
    // The replies to these GIDs of a client, "" where there is none.
    std::vector<std::string> replies(const std::vector<const char *> & client) const {
        std::vector<Choice> chosen{first()};
        std::vector<std::string> out;
        for (const char * peer : std::span(client).subspan(1)) {
            const auto choice = choose_for(gid(peer), gid(client[0]), ports, criteria, chosen, addresses);
            out.push_back(choice ? choice->device + "/" + text_of(choice->gid.gid) : "");
            if (choice) {
                chosen.push_back(*choice);
            }
        }
        return out;
    }
};
using RdmaRails = Rails;
using Texts = std::vector<std::string>;

TEST_F(RdmaRails, AClientOffersOneForEachDevice) {
    EXPECT_EQ(offered(), (Texts{"mlx5_0/10.0.0.2", "mlx5_1/10.0.1.2"}));
    criteria = at("fd71::2");
    EXPECT_EQ(offered(), (Texts{"mlx5_1/fd71::2", "mlx5_0/fd70::2"})) << "of the same family";
}

TEST_F(RdmaRails, OneDeviceIsOneRail) {
    ports.pop_back();
    EXPECT_EQ(offered(), Texts{"mlx5_0/10.0.0.2"});
    ports.push_back(ports.front());
    ports.back().port = 2;
    EXPECT_EQ(offered(), Texts{"mlx5_0/10.0.0.2"});
}

TEST_F(RdmaRails, PortsThatCannotBeUsedAreNone) {
    ports[1].is_active = false;
    EXPECT_EQ(offered().size(), 1u);
    ports[1].is_active = true;
    ports[1].gids.resize(2);  // only link-local ones
    EXPECT_EQ(offered().size(), 1u);
    ports[1] = infiniband("mlx5_1", 7);
    EXPECT_EQ(offered().size(), 1u) << "addresses do not tell which InfiniBand ports reach each other";
}

TEST_F(RdmaRails, PortsOfAnotherRateAreUsedOnlyOnRequest) {
    ports[0].rate = 100'000;
    ports[1].rate = 25'000;
    EXPECT_EQ(offered(), Texts{"mlx5_0/10.0.0.2"});
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.1.9"}), Texts{""});
    criteria.rails = 2;
    EXPECT_EQ(offered(), (Texts{"mlx5_0/10.0.0.2", "mlx5_1/10.0.1.2"}));
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.1.9"}), Texts{"mlx5_1/10.0.1.2"});
}

TEST_F(RdmaRails, SettingsRestrictThem) {
    criteria.rails = 1;
    EXPECT_EQ(offered().size(), 1u);
    criteria.rails = std::nullopt;
    criteria.device = "mlx5_0";
    EXPECT_EQ(offered().size(), 1u);
    criteria.device = std::nullopt;
    criteria.gid = 3;
    EXPECT_EQ(offered().size(), 1u);
}

TEST_F(RdmaRails, AtMostFour) {
    for (int i = 2; i < 7; ++i) {
        const std::string address = "::ffff:10.0." + std::to_string(i) + ".2";
        ports.push_back(ethernet("mlx5_" + std::to_string(i), address.c_str()));
        addresses.push_back({gid(address.c_str()), 120});
    }
    EXPECT_EQ(offered().size(), 4u);
}

TEST_F(RdmaRails, ASettingRepeatsDevices) {
    criteria.rails = 3;
    EXPECT_EQ(offered(), (Texts{"mlx5_0/10.0.0.2", "mlx5_1/10.0.1.2", "mlx5_0/10.0.0.2"}));
    criteria.device = "mlx5_0";
    EXPECT_EQ(offered(), (Texts{"mlx5_0/10.0.0.2", "mlx5_0/10.0.0.2", "mlx5_0/10.0.0.2"}));
    criteria.device = std::nullopt;
    criteria.gid = 3;
    EXPECT_EQ(offered(), (Texts{"mlx5_0/10.0.0.2", "mlx5_0/10.0.0.2", "mlx5_0/10.0.0.2"}));
}

TEST_F(RdmaRails, AServerRepliesWithThePortInTheSameNetwork) {
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.1.9"}), Texts{"mlx5_1/10.0.1.2"});
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "fd71::9"}), Texts{"mlx5_1/fd71::2"});
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.2.9"}), Texts{""});
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "fe80::9"}), Texts{""});
}

TEST_F(RdmaRails, AServerUsesADeviceOnce) {
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.0.10"}), Texts{""});
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.0.9"}), Texts{""});
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.1.9", "::ffff:10.0.1.10"}), (Texts{"mlx5_1/10.0.1.2", ""}));
}

TEST_F(RdmaRails, BothDevicesMayBeInOneNetwork) {
    ports[1] = ethernet("mlx5_1", "::ffff:10.0.0.3");
    addresses[2].address = gid("::ffff:10.0.0.3");
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.0.10"}), Texts{"mlx5_1/10.0.0.3"});
}

TEST_F(RdmaRails, WithTheSettingAServerRepeatsTheLeastUsedDevice) {
    criteria.rails = 3;
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.0.9", "::ffff:10.0.0.9", "::ffff:10.0.0.9"}),
              (Texts{"mlx5_0/10.0.0.2", "mlx5_0/10.0.0.2", ""}));
    criteria.rails = 4;
    ports[1] = ethernet("mlx5_1", "::ffff:10.0.0.3");
    addresses[2].address = gid("::ffff:10.0.0.3");
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.0.9", "::ffff:10.0.0.9"}),
              (Texts{"mlx5_1/10.0.0.3", "mlx5_0/10.0.0.2"}));
    criteria.rails = 1;
    EXPECT_EQ(replies({"::ffff:10.0.0.9", "::ffff:10.0.0.9"}), Texts{""});
}

// The connection's addresses need not be in the network of an interface, such as behind a router.
TEST_F(RdmaRails, TheFirstPairsPathServesTheOthers) {
    criteria.rails = 2;
    EXPECT_EQ(replies({"::ffff:172.16.0.9", "::ffff:172.16.0.9"}), Texts{"mlx5_0/10.0.0.2"});
    EXPECT_EQ(replies({"::ffff:172.16.0.9", "::ffff:172.16.0.10"}), Texts{""});
}

TEST(RdmaText, Gids) {
    EXPECT_EQ(text_of(gid("::ffff:10.0.0.2")), "10.0.0.2");
    EXPECT_EQ(text_of(gid("fd77::2")), "fd77::2");
}

}  // namespace
}  // namespace caravan::net::rdma
#endif
