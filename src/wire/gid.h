// Addresses of RDMA ports.
#pragma once

#include <algorithm>
#include <array>
#include <cstdint>
#include <span>

namespace caravan::wire {

// True for a GID that many ports may have: an IPv6 multicast address, or an IPv4 one (::ffff:a.b.c.d) for multicast or
// broadcast. No queue pair has it.
inline bool is_shared_gid(std::span<const uint8_t, 16> gid) {
    constexpr std::array<uint8_t, 12> ipv4{0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff};
    return gid[0] == 0xff || (std::ranges::equal(gid.first<12>(), ipv4) && gid[12] >= 224);
}

}  // namespace caravan::wire
