// SHA-256, fed piece by piece. A blob's name is the digest of its bytes.
#pragma once

#include <memory>
#include <string>
#include <string_view>

#include "base/bytes.h"

struct evp_md_ctx_st;  // OpenSSL's, kept out of our headers

namespace caravan::cache {

inline constexpr size_t sha256_hex_length = 64;

// What is read or written and hashed goes in pieces of this size: they stay in the processor's cache meanwhile.
inline constexpr size_t chunk_size = 1 << 20;

// One thread at a time. Should OpenSSL fail (no memory), the digest is lost and hex() is empty: no blob's name.
class Sha256 {
public:
    Sha256();

    void update(ConstBytes data);

    // Lower-case hex of everything so far. Ends the computation: a second call gives "".
    std::string hex();

private:
    struct Free {
        void operator()(evp_md_ctx_st * context) const;
    };
    std::unique_ptr<evp_md_ctx_st, Free> context_;  // null: failed or finished
};

// Exactly what hex() gives when it does not fail. Checked before such a text becomes part of a path.
bool is_sha256_hex(std::string_view text);

}  // namespace caravan::cache
