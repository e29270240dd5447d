#include "cache/digest.h"

#include <blake3.h>

#include <algorithm>
#include <charconv>

#include "base/formatted.h"

namespace caravan::cache {

static_assert(digest_size == BLAKE3_OUT_LEN);

struct Blake3::State {
    blake3_hasher hasher;
};

Blake3::Blake3() : state_(std::make_unique<State>()) { blake3_hasher_init(&state_->hasher); }
Blake3::~Blake3() = default;
Blake3::Blake3(Blake3 &&) noexcept = default;
Blake3 & Blake3::operator=(Blake3 &&) noexcept = default;

void Blake3::update(ConstBytes data) { blake3_hasher_update(&state_->hasher, data.data(), data.size()); }

std::array<std::byte, digest_size> Blake3::bytes() const {
    std::array<std::byte, digest_size> out;
    blake3_hasher_finalize(&state_->hasher, reinterpret_cast<uint8_t *>(out.data()), out.size());
    return out;
}

std::string Blake3::hex() const { return hex_of(bytes()); }

std::string hex_of(ConstBytes bytes) {
    std::string text;
    for (const std::byte byte : bytes) {
        text += formatted("{:02x}", static_cast<unsigned>(byte));
    }
    return text;
}

std::array<std::byte, digest_size> bytes_of_hex(std::string_view hex) {
    std::array<std::byte, digest_size> out{};
    for (size_t i = 0; i < out.size(); ++i) {
        unsigned value = 0;
        std::from_chars(hex.data() + 2 * i, hex.data() + 2 * i + 2, value, 16);
        out[i] = static_cast<std::byte>(value);
    }
    return out;
}

bool is_digest_hex(std::string_view text) {
    return text.size() == digest_hex_length && std::ranges::all_of(text, [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
           });
}

}  // namespace caravan::cache
