#include "net/networks.h"

#include <arpa/inet.h>
#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>

#include <algorithm>
#include <bit>
#include <charconv>
#include <cstring>
#include <memory>
#include <optional>
#include <ranges>

#include "base/formatted.h"

namespace caravan::net {
namespace {

using Address = std::array<uint8_t, 16>;
constexpr int mapped_bits = 96;  // of ::ffff:0:0/96, the IPv4 addresses

Address mapped(const void * v4) {
    Address out{};
    out[10] = out[11] = 0xff;
    std::memcpy(out.data() + 12, v4, 4);
    return out;
}

bool is_mapped(const Address & address) { return std::equal(address.begin(), address.begin() + 12, mapped("    ").begin()); }

std::optional<Address> parse_address(std::string_view text) {
    const std::string host(text.substr(0, text.find('%')));  // without a zone
    Address address{};
    in_addr v4{};
    if (::inet_pton(AF_INET, host.c_str(), &v4) == 1) {
        return mapped(&v4);
    }
    if (::inet_pton(AF_INET6, host.c_str(), address.data()) == 1) {
        return address;
    }
    return std::nullopt;
}

Address masked(Address address, int prefix) {
    for (int i = 0; i < 16; ++i) {
        const int bits = std::clamp(prefix - 8 * i, 0, 8);
        address[static_cast<size_t>(i)] &= static_cast<uint8_t>(0xff00 >> bits);
    }
    return address;
}

int prefix_of(const uint8_t * mask, size_t size) {
    int bits = 0;
    for (size_t i = 0; i < size; ++i) {
        bits += std::popcount(mask[i]);
    }
    return bits;
}

}  // namespace

Result<Networks::Network> Networks::parse_one(std::string_view text) {
    const size_t slash = text.find('/');
    const auto address = parse_address(text.substr(0, slash));
    const bool is_v4 = text.find(':') == std::string_view::npos;
    Network network;
    int prefix = is_v4 ? 32 : 128;
    bool good = address.has_value();
    if (slash != std::string_view::npos) {
        const std::string_view digits = text.substr(slash + 1);
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), prefix);
        good = good && error == std::errc() && end == digits.data() + digits.size() && prefix >= 0 &&
               prefix <= (is_v4 ? 32 : 128);
    }
    if (!good) {
        return fail(Errc::invalid_argument, "\"{}\" is not a network; expected a form such as 10.0.0.0/8 or fd00::/8", text);
    }
    network.prefix = prefix + (is_v4 ? mapped_bits : 0);
    network.address = masked(*address, network.prefix);
    return network;
}

Result<Networks> Networks::parse(std::string_view text) {
    Networks networks;
    if (text == "off") {
        return networks;
    }
    if (text.empty()) {
        return fail(Errc::invalid_argument, "the list of networks is empty; use \"off\" for none");
    }
    for (const auto part : std::views::split(text, ',')) {
        auto network = parse_one(std::string_view(part.begin(), part.end()));
        if (!network) {
            return std::unexpected(network.error());
        }
        networks.networks_.push_back(*network);
    }
    return networks;
}

Networks Networks::loopback() { return *parse("127.0.0.0/8,::1"); }

Networks Networks::of_interfaces() {
    Networks networks;
    ifaddrs * first = nullptr;
    if (::getifaddrs(&first) != 0) {
        return networks;
    }
    const std::unique_ptr<ifaddrs, decltype(&::freeifaddrs)> owner(first, ::freeifaddrs);
    for (const ifaddrs * entry = first; entry != nullptr; entry = entry->ifa_next) {
        if (entry->ifa_addr == nullptr || entry->ifa_netmask == nullptr || (entry->ifa_flags & IFF_UP) == 0 ||
            (entry->ifa_flags & IFF_LOOPBACK) != 0) {
            continue;
        }
        Network network;
        if (entry->ifa_addr->sa_family == AF_INET) {
            const auto mask = reinterpret_cast<const sockaddr_in *>(entry->ifa_netmask)->sin_addr;
            network.address = mapped(&reinterpret_cast<const sockaddr_in *>(entry->ifa_addr)->sin_addr);
            network.prefix = mapped_bits + prefix_of(reinterpret_cast<const uint8_t *>(&mask), sizeof mask);
        } else if (entry->ifa_addr->sa_family == AF_INET6) {
            const auto & mask = reinterpret_cast<const sockaddr_in6 *>(entry->ifa_netmask)->sin6_addr;
            std::memcpy(network.address.data(), &reinterpret_cast<const sockaddr_in6 *>(entry->ifa_addr)->sin6_addr, 16);
            network.prefix = prefix_of(mask.s6_addr, sizeof mask.s6_addr);
        } else {
            continue;
        }
        network.address = masked(network.address, network.prefix);
        if (!std::ranges::contains(networks.networks_, network)) {
            networks.networks_.push_back(network);
        }
    }
    return networks;
}

bool Networks::contains(const std::string & host) const {
    const auto address = parse_address(host);
    return address && std::ranges::any_of(networks_, [&](const Network & network) {
        // ::/0 means IPv6 addresses only: it must not match IPv4-mapped ones.
        const bool same_kind = is_mapped(*address) == (network.prefix >= mapped_bits && is_mapped(network.address));
        return same_kind && masked(*address, network.prefix) == network.address;
    });
}

void Networks::add(const Networks & others) { std::ranges::copy(others.networks_, std::back_inserter(networks_)); }

std::string Networks::text() const {
    std::string all;
    for (const Network & network : networks_) {
        char name[INET6_ADDRSTRLEN] = "";
        const bool is_v4 = network.prefix >= mapped_bits && is_mapped(network.address);
        ::inet_ntop(is_v4 ? AF_INET : AF_INET6, network.address.data() + (is_v4 ? 12 : 0), name, sizeof name);
        all += formatted("{}{}/{}", all.empty() ? "" : ",", name, network.prefix - (is_v4 ? mapped_bits : 0));
    }
    return all.empty() ? "off" : all;
}

}  // namespace caravan::net
