#include "cache/digest.h"

#include <openssl/evp.h>

#include <algorithm>
#include <array>
#include <format>
#include <iterator>

namespace caravan::cache {

void Sha256::Free::operator()(evp_md_ctx_st * context) const { EVP_MD_CTX_free(context); }

Sha256::Sha256() : context_(EVP_MD_CTX_new()) {
    if (context_ && EVP_DigestInit_ex(context_.get(), EVP_sha256(), nullptr) != 1) {
        context_.reset();
    }
}

void Sha256::update(ConstBytes data) {
    if (context_ && EVP_DigestUpdate(context_.get(), data.data(), data.size()) != 1) {
        context_.reset();
    }
}

std::string Sha256::hex() {
    std::array<unsigned char, sha256_hex_length / 2> digest{};
    const bool finished = context_ && EVP_DigestFinal_ex(context_.get(), digest.data(), nullptr) == 1;
    context_.reset();
    std::string text;
    if (finished) {
        for (const unsigned char byte : digest) {
            std::format_to(std::back_inserter(text), "{:02x}", byte);
        }
    }
    return text;
}

bool is_sha256_hex(std::string_view text) {
    return text.size() == sha256_hex_length && std::ranges::all_of(text, [](char c) {
               return (c >= '0' && c <= '9') || (c >= 'a' && c <= 'f');
           });
}

}  // namespace caravan::cache
