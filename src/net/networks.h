// Sets of IP networks: which addresses a server may be sent to by its clients.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"

namespace caravan::net {

class Networks {
public:
    // "10.0.0.0/8,fd00::/8,192.168.1.7" or "off", which is none.
    static Result<Networks> parse(std::string_view text);
    // The networks of this machine's interfaces that are up, loopback left out.
    static Networks of_interfaces();
    static Networks loopback();

    // `host`: a numeric address. An IPv4 address in IPv6 form counts as the IPv4 address.
    bool contains(const std::string & host) const;
    void add(const Networks & others);
    // As parse() reads it.
    std::string text() const;
    bool operator==(const Networks &) const = default;

private:
    // IPv4 addresses in their IPv6 form, so that there is one kind.
    struct Network {
        std::array<uint8_t, 16> address{};
        int prefix = 128;  // bits
        bool operator==(const Network &) const = default;
    };
    static Result<Network> parse_one(std::string_view text);

    std::vector<Network> networks_;
};

}  // namespace caravan::net
