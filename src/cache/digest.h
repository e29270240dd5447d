// Incremental BLAKE3. A blob is named after the digest of its bytes.
#pragma once

#include <array>
#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"

namespace caravan::cache {

inline constexpr size_t digest_size = 32;
inline constexpr size_t digest_hex_length = 2 * digest_size;

// Data is read or written, and hashed, in chunks of this size, which fit into the CPU's cache. Bytes.
inline constexpr size_t chunk_size = 1 << 20;

// Only one thread at a time may use an object.
class Blake3 {
public:
    Blake3();
    ~Blake3();
    Blake3(Blake3 &&) noexcept;
    Blake3 & operator=(Blake3 &&) noexcept;

    void update(ConstBytes data);

    // The digest of all data so far: as bytes, and as lower-case hex.
    std::array<std::byte, digest_size> bytes() const;
    std::string hex() const;

private:
    struct State;  // hides the BLAKE3 library's header
    std::unique_ptr<State> state_;
};

std::string hex_of(ConstBytes bytes);
// Requires is_digest_hex(hex).
std::array<std::byte, digest_size> bytes_of_hex(std::string_view hex);

// True if `text` has the form that hex() returns. Check it before using `text` in a path.
bool is_digest_hex(std::string_view text);

}  // namespace caravan::cache
