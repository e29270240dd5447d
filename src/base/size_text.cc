#include "base/size_text.h"

#include <array>
#include <charconv>
#include <cmath>

#include "base/counted.h"

namespace caravan {

std::optional<uint64_t> parse_size(std::string_view text) {
    double number = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number, std::chars_format::fixed);
    if (error != std::errc() || !(number >= 0)) {
        return std::nullopt;
    }
    std::string unit;
    for (const char c : text.substr(static_cast<size_t>(end - text.data()))) {
        unit += c >= 'a' && c <= 'z' ? static_cast<char>(c - 'a' + 'A') : c;
    }
    unit.erase(0, unit.starts_with(' ') ? 1 : 0);
    int power = 0;
    if (const size_t prefix = std::string_view("KMGT").find(unit.substr(0, 1));
        !unit.empty() && prefix != std::string_view::npos) {
        power = static_cast<int>(prefix) + 1;
        unit.erase(0, 1);
    }
    const bool is_unit = unit.empty() || unit == "B" || (power > 0 && (unit == "I" || unit == "IB"));
    const double bytes = std::round(std::ldexp(number, 10 * power));
    if (!is_unit || bytes >= 0x1p63) {
        return std::nullopt;
    }
    return static_cast<uint64_t>(bytes);
}

std::string size_text(uint64_t bytes) {
    constexpr std::array units{"KiB", "MiB", "GiB", "TiB", "PiB", "EiB"};
    if (bytes < 1024) {
        return counted(bytes, "byte");
    }
    size_t unit = 0;
    for (; unit + 1 < units.size() && bytes >= 1024 * 1024; ++unit) {
        bytes /= 1024;
    }
    const uint64_t tenths = bytes * 10 / 1024;
    return tenths % 10 == 0 ? formatted("{} {}", tenths / 10, units[unit])
                            : formatted("{}.{} {}", tenths / 10, tenths % 10, units[unit]);
}

}  // namespace caravan
