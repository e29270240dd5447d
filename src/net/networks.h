// A set of IP networks: the addresses to which clients may direct a server.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "platform/address.h"

namespace caravan::net {

// The address of the network of `prefix` bits, counted as of IPv6, that `address` is in.
platform::IpAddress masked(platform::IpAddress address, int prefix);

class Networks {
public:
    // "10.0.0.0/8,fd00::/8,192.168.1.7", or "off" for the empty set.
    static Result<Networks> parse(std::string_view text);
    // The networks of this machine's interfaces that are up, except loopback.
    static Networks of_interfaces();
    static Networks loopback();

    // `host`: a numeric address. An IPv4 address in IPv6 form counts as the IPv4 address.
    bool contains(const std::string & host) const;
    void add(const Networks & others);
    // The form that parse() accepts.
    std::string text() const;
    bool operator==(const Networks &) const = default;

private:
    // IPv4 addresses are stored as IPv4-mapped IPv6 addresses.
    struct Network {
        platform::IpAddress address{};
        int prefix = 128;  // bits
        bool operator==(const Network &) const = default;
    };
    static Result<Network> parse_one(std::string_view text);

    std::vector<Network> networks_;
};

}  // namespace caravan::net
