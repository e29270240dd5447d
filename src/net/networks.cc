#include "net/networks.h"

#include <algorithm>
#include <charconv>
#include <optional>
#include <ranges>

#include "base/formatted.h"
#include "platform/address.h"

namespace caravan::net {
namespace {

using platform::ipv4_prefix_bits;

}  // namespace

platform::IpAddress masked(platform::IpAddress address, int prefix) {
    for (int i = 0; i < 16; ++i) {
        const int bits = std::clamp(prefix - 8 * i, 0, 8);
        address[static_cast<size_t>(i)] &= static_cast<uint8_t>(0xff00 >> bits);
    }
    return address;
}

Result<Networks::Network> Networks::parse_one(std::string_view text) {
    const size_t slash = text.find('/');
    const auto address = platform::parse_ip(text.substr(0, slash));
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
    network.prefix = prefix + (is_v4 ? ipv4_prefix_bits : 0);
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
    for (const platform::InterfaceAddress & found : platform::interface_addresses()) {
        Network network;
        network.prefix = found.prefix;
        network.address = masked(found.address, found.prefix);
        if (!std::ranges::contains(networks.networks_, network)) {
            networks.networks_.push_back(network);
        }
    }
    return networks;
}

bool Networks::contains(const std::string & host) const {
    const auto address = platform::parse_ip(host);
    return address && std::ranges::any_of(networks_, [&](const Network & network) {
        // ::/0 means IPv6 addresses only: it must not match IPv4-mapped ones.
        const bool is_v4 = network.prefix >= ipv4_prefix_bits && platform::is_ipv4(network.address);
        const bool same_kind = platform::is_ipv4(*address) == is_v4;
        return same_kind && masked(*address, network.prefix) == network.address;
    });
}

void Networks::add(const Networks & others) { std::ranges::copy(others.networks_, std::back_inserter(networks_)); }

std::string Networks::text() const {
    std::string all;
    for (const Network & network : networks_) {
        const bool is_v4 = network.prefix >= ipv4_prefix_bits && platform::is_ipv4(network.address);
        all += formatted("{}{}/{}", all.empty() ? "" : ",", platform::text_of(network.address),
                         network.prefix - (is_v4 ? ipv4_prefix_bits : 0));
    }
    return all.empty() ? "off" : all;
}

}  // namespace caravan::net
