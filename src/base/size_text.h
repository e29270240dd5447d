// Human-readable sizes.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>

namespace caravan {

// Parses a size such as "500M", "1.5G", "50 GiB" or "4096" into bytes. K, M, G and T are powers of 1024. std::nullopt if
// `text` is not a size.
std::optional<uint64_t> parse_size(std::string_view text);

// Formats bytes as "17.2 GiB", "50 GiB" or "12 bytes": with one decimal, rounded down, unless it is 0.
std::string size_text(uint64_t bytes);

}  // namespace caravan
