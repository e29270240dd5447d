#include "base/formatted.h"
#include "net/advice.h"
#include "net/endpoint.h"

#include <gtest/gtest.h>

namespace caravan::net {
namespace {

Endpoint parsed(std::string_view text) {
    const auto endpoint = parse_endpoint(text);
    EXPECT_TRUE(endpoint) << text << ": " << endpoint.error().text;
    return endpoint.value_or(Endpoint{});
}

TEST(Endpoint, HostAndPort) {
    EXPECT_EQ(parsed("10.1.2.3:6000"), (Endpoint{.host = "10.1.2.3", .port = 6000}));
    EXPECT_EQ(parsed("box.lan:1"), (Endpoint{.host = "box.lan", .port = 1}));
    EXPECT_EQ(parsed("box:65535"), (Endpoint{.host = "box", .port = 65535}));
}

TEST(Endpoint, HostAloneTakesTheDefaultPort) {
    EXPECT_EQ(parsed("localhost"), (Endpoint{.host = "localhost", .port = default_port}));
    EXPECT_EQ(parsed("192.168.0.7"), (Endpoint{.host = "192.168.0.7", .port = default_port}));
}

TEST(Endpoint, Ipv6) {
    EXPECT_EQ(parsed("[::1]:7000"), (Endpoint{.host = "::1", .port = 7000}));
    EXPECT_EQ(parsed("[fe80::1%eth0]:7000"), (Endpoint{.host = "fe80::1%eth0", .port = 7000}));
    EXPECT_EQ(parsed("[::1]"), (Endpoint{.host = "::1", .port = default_port}));
    EXPECT_EQ(parsed("::1"), (Endpoint{.host = "::1", .port = default_port}));
    EXPECT_EQ(parsed("fe80::1%eth0"), (Endpoint{.host = "fe80::1%eth0", .port = default_port}));
    EXPECT_EQ(parsed("2001:db8:0:1:2:3:4:5"), (Endpoint{.host = "2001:db8:0:1:2:3:4:5", .port = default_port}));
}

TEST(Endpoint, SpacesAroundItAreIgnored) {
    EXPECT_EQ(parsed(" host:12"), (Endpoint{.host = "host", .port = 12}));
    EXPECT_EQ(parsed("[::1]:7000  "), (Endpoint{.host = "::1", .port = 7000}));
}

TEST(Endpoint, UnixSocket) {
    const Endpoint endpoint = parsed("unix:/run/rpc server.sock");
    EXPECT_EQ(endpoint.kind, Endpoint::Kind::unix_socket);
    EXPECT_EQ(endpoint.path, "/run/rpc server.sock");
    EXPECT_EQ(parsed("unix:relative").path, "relative");
    EXPECT_EQ(parsed("unix:/a:5").path, "/a:5");
}

TEST(Endpoint, TextReadsBackAsTheSameEndpoint) {
    for (const char * text : {"10.1.2.3:6000", "localhost", "[::1]:7000", "::1", "[fe80::1%eth0]:9", "unix:/tmp/a:b"}) {
        const Endpoint endpoint = parsed(text);
        EXPECT_EQ(parsed(endpoint.text()), endpoint) << text;
    }
    EXPECT_EQ(parsed("::1").text(), "[::1]:50052");
    EXPECT_EQ(parsed("host").text(), "host:50052");
    EXPECT_EQ(parsed("unix:/x").text(), "unix:/x");
    EXPECT_EQ(parsed("unix").text(), "[unix]:50052") << "a host with this name is not a path";
}

TEST(Endpoint, RefusesMalformedTextWithAReason) {
    for (const char * text :
         {"", ":", ":5000", "[::1", "[::1]7000", "[::1]x7000", "[::1]:", "[]", "[]:7000", "::1]", "[::1]]:5", "host:", "host:0",
          "host:65536", "host:99999999999999999999", "host:12x", "host:x12", "host:-1", "host:+1", "host: 12", "ho st:12",
          "host :12", "\thost", "host\n", "http://host", "host/path", "unix:"}) {
        const auto endpoint = parse_endpoint(text);
        ASSERT_FALSE(endpoint) << '"' << text << '"';
        EXPECT_EQ(endpoint.error().code, Errc::invalid_argument) << text;
        EXPECT_TRUE(endpoint.error().text.contains(formatted("\"{}\"", text))) << endpoint.error().text;
    }
}

// Text with two colons must be a valid IPv6 address.
TEST(Endpoint, RefusesColonsOutsideIpv6Addresses) {
    for (const char * text : {"a:b:c", "host:80:90", "host::80", "[host:80]:90", ":::", "1:2:3:4:5:6:7:8:9"}) {
        EXPECT_FALSE(parse_endpoint(text)) << '"' << text << '"';
    }
}

TEST(Endpoint, WithoutEndpointStripsThePrefixOnly) {
    const Endpoint endpoint = parsed("[fd00::1]:7");
    EXPECT_EQ(without_endpoint(endpoint, "[fd00::1]:7: cannot connect"), "cannot connect");
    EXPECT_EQ(without_endpoint(endpoint, "cannot connect to [fd00::1]:7"), "cannot connect to [fd00::1]:7");
}

TEST(Endpoint, ListenHostRefusesAPort) {
    EXPECT_EQ(parse_listen_host("0.0.0.0"), "0.0.0.0");
    EXPECT_EQ(parse_listen_host("::1"), "::1");
    EXPECT_EQ(parse_listen_host("[::1]"), "::1");
    EXPECT_EQ(parse_listen_host("[fe80::1%eth0]"), "fe80::1%eth0");
    EXPECT_EQ(parse_listen_host("unix:/a:b"), "unix:/a:b");
    using Case = std::pair<const char *, const char *>;
    for (const auto & [text, remedy] :
         {Case{"box:77", "-H box -p 77"}, Case{"[::1]:77", "-H ::1 -p 77"}, Case{":77", "-H 0.0.0.0 -p 77"}}) {
        const auto host = parse_listen_host(text);
        ASSERT_FALSE(host) << text;
        EXPECT_TRUE(host.error().text.ends_with(remedy)) << host.error().text;
    }
    for (const char * text : {"", "[", "[]", "[::1", "[::1]x", "host:", "http://host", "unix:"}) {
        EXPECT_FALSE(parse_listen_host(text)) << text;
    }
}

TEST(Advice, ShowsHowToStartAReachableServer) {
    EXPECT_TRUE(connect_advice(parsed("10.0.0.1:7"), Errc::unavailable).contains("rpc-server runs there with -H 0.0.0.0 -p 7"));
    EXPECT_TRUE(connect_advice(parsed("[fd00::1]:7"), Errc::unavailable).contains("-H :: -p 7"));
    EXPECT_EQ(connect_advice(parsed("localhost:7"), Errc::unavailable), "check that rpc-server runs on this machine with -p 7");
    EXPECT_TRUE(connect_advice(parsed("unix:/s"), Errc::unavailable).contains("-H unix:/s"));
    EXPECT_TRUE(connect_advice(parsed("[fd00::1]:7"), Errc::io).contains("ip route get fd00::1"));
    EXPECT_TRUE(connect_advice(parsed("box:7"), Errc::timed_out).contains("firewall"));
}

}  // namespace
}  // namespace caravan::net
