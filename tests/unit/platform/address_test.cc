#include "platform/address.h"

#include <gtest/gtest.h>

namespace caravan::platform {
namespace {

std::string round_trip(std::string_view text) {
    const auto address = parse_ip(text);
    return address ? text_of(*address) : "none";
}

TEST(IpAddress, IsReadAndWritten) {
    EXPECT_EQ(round_trip("10.0.0.2"), "10.0.0.2");
    EXPECT_EQ(round_trip("FD00::0:1"), "fd00::1");
    EXPECT_EQ(round_trip("::ffff:10.0.0.2"), "10.0.0.2");
    EXPECT_EQ(round_trip("fe80::1%eth0"), "fe80::1");
    for (const std::string_view wrong : {"", "10.0.0", "10.0.0.256", "host", "fe80::1::2", "::1 "}) {
        EXPECT_EQ(round_trip(wrong), "none") << wrong;
    }
}

TEST(IpAddress, KnowsSpecialNetworks) {
    EXPECT_TRUE(is_loopback(*parse_ip("127.9.9.9")));
    EXPECT_TRUE(is_loopback(*parse_ip("::1")));
    EXPECT_FALSE(is_loopback(*parse_ip("128.0.0.1")));
    EXPECT_FALSE(is_loopback(*parse_ip("::2")));
    EXPECT_TRUE(is_link_local(*parse_ip("febf::1")));
    EXPECT_FALSE(is_link_local(*parse_ip("fec0::1")));
    EXPECT_TRUE(is_ipv4(*parse_ip("0.0.0.0")));
    EXPECT_FALSE(is_ipv4(*parse_ip("::")));
}

TEST(SocketAddress, OfAPathHasNoHost) {
    const auto address = SocketAddress::of_path("/tmp/socket");
    ASSERT_TRUE(address);
    EXPECT_EQ(address->family(), SocketAddress::Family::local);
    EXPECT_EQ(address->host(), "");
    EXPECT_FALSE(address->ip());
    EXPECT_TRUE(address->is_loopback());
    EXPECT_EQ(SocketAddress::of_path(std::string(200, 'x')).error().code, Errc::invalid_argument);
}

TEST(SocketAddress, OfANumericHost) {
    const auto found = resolve("127.0.0.1", 80, Purpose::connect);
    ASSERT_TRUE(found);
    ASSERT_EQ(found->size(), 1u);
    SocketAddress address = found->front();
    EXPECT_EQ(address.family(), SocketAddress::Family::ipv4);
    EXPECT_EQ(address.host(), "127.0.0.1");
    EXPECT_EQ(address.port(), 80);
    address.set_port(50052);
    EXPECT_EQ(address.port(), 50052);
    EXPECT_EQ(text_of(*address.ip()), "127.0.0.1");
}

}  // namespace
}  // namespace caravan::platform
