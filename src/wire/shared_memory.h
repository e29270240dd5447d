// How two servers of one machine agree on memory that they share, and what it contains. Server to server, on the link of two
// ranks of a group, before the first reduction. docs/protocol.md has the steps. Layouts only: no I/O.
#pragma once

#include <cstddef>
#include <cstdint>

namespace caravan::wire {

inline constexpr size_t secret_size = 16;

#pragma pack(push, 1)

// Step 1, in both directions: whether the ranks run under the same kernel. `mark`: BLAKE3 of the salt, which is random, and the
// kernel's boot id, which is not sent.
struct MachineMark {
    std::byte salt[secret_size];
    std::byte mark[secret_size];
};
// Step 2, from the rank that opened the link: where its server has made the memory.
struct MemoryPlace {
    uint8_t is_made;
    uint32_t process, descriptor;
    std::byte secret[secret_size];  // at the beginning of the memory: proves that the memory may be opened
};
// Step 3, from the other rank.
struct MemoryAnswer {
    uint8_t is_mapped;
    std::byte proof[secret_size];  // random; the rank has also written it into the memory
};
// Step 4, from the rank that opened the link: it has found the proof in the memory, and both use it from now on.
struct MemoryVerdict {
    uint8_t is_shared;
};

#pragma pack(pop)

// The memory: two rings of bytes, ring 0 from the rank that opened the link to the other one. Positions count bytes from 0 and
// never wrap; a byte is at its position modulo ring_size. Each value has one writer: the sender of the ring, its receiver, or
// (sleeps) the rank that sleeps, while the other one resets it when it sends a byte over the link to wake it up.
inline constexpr size_t ring_size = 512 * 1024, cache_line = 64;
inline constexpr size_t at_secret = 0, at_proof = cache_line;
constexpr size_t at_written(size_t ring) { return (2 + 2 * ring) * cache_line; }
constexpr size_t at_read(size_t ring) { return (3 + 2 * ring) * cache_line; }
constexpr size_t at_sleeps(size_t rank) { return (6 + rank) * cache_line; }  // 0: the rank that opened the link. u64, 0 or 1
constexpr size_t at_ring(size_t ring) { return 4096 + ring * ring_size; }
inline constexpr size_t shared_memory_size = at_ring(2);

}  // namespace caravan::wire
