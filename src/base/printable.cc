#include "base/printable.h"

#include <cstdint>

namespace caravan {
namespace {

constexpr std::string_view ellipsis = "...";

struct Character {
    size_t size;    // bytes; 1 for a byte that is not valid UTF-8
    bool is_shown;  // valid, and without effect on a terminal
};

// Control characters, line and paragraph separators, and bidirectional marks, embeddings, overrides and isolates.
bool is_harmful(uint32_t code) {
    return code < 0x20 || (code >= 0x7f && code < 0xa0) || code == 0x061c || code == 0x200e || code == 0x200f ||
           (code >= 0x2028 && code <= 0x202e) || (code >= 0x2066 && code <= 0x2069);
}

Character first_character(std::string_view text) {
    const auto byte = [&](size_t i) { return static_cast<uint8_t>(text[i]); };
    const uint8_t lead = byte(0);
    if (lead < 0x80) {
        return {1, !is_harmful(lead)};
    }
    const size_t size = lead < 0xc2 || lead > 0xf4 ? 0 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
    if (size == 0 || text.size() < size) {
        return {1, false};
    }
    uint32_t code = lead & (0x7fu >> size);
    for (size_t i = 1; i < size; ++i) {
        if ((byte(i) & 0xc0) != 0x80) {
            return {1, false};
        }
        code = code << 6 | (byte(i) & 0x3fu);
    }
    const bool is_overlong = (size == 3 && code < 0x800) || (size == 4 && code < 0x10000);
    const bool is_no_character = (code >= 0xd800 && code < 0xe000) || code > 0x10ffff;
    if (is_overlong || is_no_character) {
        return {1, false};
    }
    return {size, !is_harmful(code)};
}

}  // namespace

std::string printable(std::string_view text, size_t max) {
    std::string out;
    size_t cut = 0;  // length of the longest prefix of `out` that leaves space for the ellipsis
    for (size_t at = 0; at < text.size();) {
        const Character next = first_character(text.substr(at));
        const std::string_view shown = next.is_shown ? text.substr(at, next.size) : "?";
        if (out.size() + shown.size() > max) {
            out.resize(cut);
            return out.append(ellipsis.substr(0, max - cut));
        }
        out += shown;
        at += next.size;
        if (out.size() + ellipsis.size() <= max) {
            cut = out.size();
        }
    }
    return out;
}

}  // namespace caravan
