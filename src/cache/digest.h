// BLAKE3, fed piece by piece. A blob's name is the digest of its bytes.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"

namespace caravan::cache {

inline constexpr size_t digest_size = 32;
inline constexpr size_t digest_hex_length = 2 * digest_size;

// What is read or written and hashed goes in pieces of this size: they stay in the processor's cache meanwhile.
inline constexpr size_t chunk_size = 1 << 20;

// One thread at a time.
class Blake3 {
public:
    Blake3();
    ~Blake3();
    Blake3(Blake3 &&) noexcept;
    Blake3 & operator=(Blake3 &&) noexcept;

    void update(ConstBytes data);

    // Of everything so far: as bytes, and as lower-case hex.
    std::array<std::byte, digest_size> bytes() const;
    std::string hex() const;

private:
    struct State;  // the library's, kept out of our headers
    std::unique_ptr<State> state_;
};

std::string hex_of(ConstBytes bytes);
// `hex` is one of is_digest_hex().
std::array<std::byte, digest_size> bytes_of_hex(std::string_view hex);

// Exactly what hex() gives. Checked before such a text becomes part of a path.
bool is_digest_hex(std::string_view text);

}  // namespace caravan::cache
