#include <ifaddrs.h>
#include <net/if.h>
#include <netinet/in.h>
#include <sys/socket.h>

#include <bit>
#include <cstring>
#include <memory>

#include "platform/address.h"

namespace caravan::platform {
namespace {

// Of the same family as `family`.
std::optional<IpAddress> ip_of(const sockaddr * address, sa_family_t family) {
    SocketAddress out;
    if (address == nullptr) {
        return std::nullopt;
    }
    std::memcpy(out.data(), address, family == AF_INET ? sizeof(sockaddr_in) : sizeof(sockaddr_in6));
    static_cast<sockaddr *>(out.data())->sa_family = family;  // some systems leave it out of the mask
    return out.ip();
}

// The number of bits set from byte `first`.
int bits_in(const IpAddress & mask, size_t first) {
    int bits = 0;
    for (size_t i = first; i < mask.size(); ++i) {
        bits += std::popcount(mask[i]);
    }
    return bits;
}

}  // namespace

std::vector<InterfaceAddress> interface_addresses() {
    std::vector<InterfaceAddress> out;
    ifaddrs * first = nullptr;
    if (::getifaddrs(&first) != 0) {
        return out;
    }
    const std::unique_ptr<ifaddrs, void (*)(ifaddrs *)> owner(first, ::freeifaddrs);
    for (const ifaddrs * entry = first; entry != nullptr; entry = entry->ifa_next) {
        if (entry->ifa_addr == nullptr || (entry->ifa_flags & IFF_UP) == 0 || (entry->ifa_flags & IFF_LOOPBACK) != 0) {
            continue;
        }
        const sa_family_t family = entry->ifa_addr->sa_family;
        if (family != AF_INET && family != AF_INET6) {
            continue;
        }
        const auto address = ip_of(entry->ifa_addr, family), mask = ip_of(entry->ifa_netmask, family);
        if (address && mask) {
            const int unmasked = family == AF_INET ? ipv4_prefix_bits : 0;  // the mask covers only what follows
            out.push_back({*address, unmasked + bits_in(*mask, static_cast<size_t>(unmasked / 8))});
        }
    }
    return out;
}

}  // namespace caravan::platform
