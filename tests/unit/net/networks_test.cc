#include "net/networks.h"

#include <gtest/gtest.h>

namespace caravan::net {
namespace {

Networks networks(const char * text) {
    auto parsed = Networks::parse(text);
    EXPECT_TRUE(parsed) << text;
    return parsed.value_or(Networks());
}

TEST(Networks, ContainTheirAddresses) {
    const Networks some = networks("10.1.0.0/16,192.168.7.9,fd00::/8");
    for (const char * inside : {"10.1.0.0", "10.1.255.255", "192.168.7.9", "fd12::1", "::ffff:10.1.2.3"}) {
        EXPECT_TRUE(some.contains(inside)) << inside;
    }
    for (const char * outside : {"10.2.0.0", "192.168.7.8", "fe80::1", "127.0.0.1", "::1", "::ffff:10.2.0.0", "0.0.0.0",
                                 "::", "name", ""}) {
        EXPECT_FALSE(some.contains(outside)) << outside;
    }
}

TEST(Networks, FamiliesAreSeparate) {
    EXPECT_TRUE(networks("0.0.0.0/0").contains("8.8.8.8"));
    EXPECT_TRUE(networks("0.0.0.0/0").contains("::ffff:8.8.8.8"));
    EXPECT_FALSE(networks("0.0.0.0/0").contains("2001:db8::1"));
    EXPECT_TRUE(networks("::/0").contains("2001:db8::1"));
    EXPECT_FALSE(networks("::/0").contains("8.8.8.8"));
}

TEST(Networks, OffIsTheEmptySet) {
    EXPECT_EQ(networks("off"), Networks());
    EXPECT_FALSE(networks("off").contains("127.0.0.1"));
    EXPECT_EQ(Networks().text(), "off");
}

TEST(Networks, TextRoundTrips) {
    EXPECT_EQ(networks("10.1.2.3/8,fd00::1/8,::1").text(), "10.0.0.0/8,fd00::/8,::1/128");
    for (const char * text : {"10.1.2.3/8,fd00::1/8", "0.0.0.0/0,::/0", "off", "192.168.0.128/25"}) {
        EXPECT_EQ(networks(networks(text).text().c_str()), networks(text)) << text;
    }
}

TEST(Networks, LoopbackContainsLoopbackAddressesOnly) {
    EXPECT_TRUE(Networks::loopback().contains("127.0.0.1"));
    EXPECT_TRUE(Networks::loopback().contains("127.9.9.9"));
    EXPECT_TRUE(Networks::loopback().contains("::1"));
    EXPECT_FALSE(Networks::loopback().contains("10.0.0.1"));
    EXPECT_FALSE(Networks::of_interfaces().contains("127.0.0.1"));
}

TEST(Networks, RefuseInvalidText) {
    for (const char * text : {"", ",", "10.0.0.0/33", "10.0.0.0/-1", "10.0.0.0/", "10.0.0.0/8x", "fd00::/129", "10.0.0",
                              "example.org", "10.0.0.0/8,", "on", "/8"}) {
        EXPECT_FALSE(Networks::parse(text)) << text;
    }
}

}  // namespace
}  // namespace caravan::net
