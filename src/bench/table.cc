#include "bench/table.h"

#include <algorithm>
#include <array>

#include "base/formatted.h"

namespace caravan::bench {
namespace {

// Characters of UTF-8 text: bytes that do not continue a character.
size_t width(std::string_view text) {
    return static_cast<size_t>(std::ranges::count_if(text, [](char c) { return (c & 0xc0) != 0x80; }));
}

}  // namespace

void Table::add_column(std::string header, bool right_aligned) { columns_.push_back({std::move(header), right_aligned}); }

void Table::add_row(std::vector<std::string> cells) { rows_.push_back(std::move(cells)); }

std::string Table::text() const {
    std::vector<size_t> widths;
    for (size_t i = 0; i < columns_.size(); ++i) {
        size_t widest = std::max<size_t>(width(columns_[i].header), 3);
        for (const auto & row : rows_) {
            widest = std::max(widest, width(row[i]));
        }
        widths.push_back(widest);
    }
    std::string out;
    const auto put = [&](size_t i, std::string_view cell) {
        const std::string fill(widths[i] - width(cell), ' ');
        out += "| ";
        out += columns_[i].right_aligned ? fill : "";
        out += cell;
        out += columns_[i].right_aligned ? " " : fill + " ";
    };
    for (size_t i = 0; i < columns_.size(); ++i) {
        put(i, columns_[i].header);
    }
    out += "|\n";
    for (size_t i = 0; i < columns_.size(); ++i) {
        out += "| " + std::string(widths[i] - 1, '-') + (columns_[i].right_aligned ? ": " : "- ");
    }
    out += "|\n";
    for (const auto & row : rows_) {
        for (size_t i = 0; i < row.size(); ++i) {
            put(i, row[i]);
        }
        out += "|\n";
    }
    return out;
}

std::string size_text(uint64_t bytes) {
    constexpr std::array units{"B", "KiB", "MiB", "GiB", "TiB"};
    auto value = static_cast<double>(bytes);
    size_t unit = 0;
    for (; value >= 1024 && unit + 1 < units.size(); ++unit) {
        value /= 1024;
    }
    return value == static_cast<double>(static_cast<uint64_t>(value)) ? formatted("{:.0f} {}", value, units[unit])
                                                                      : formatted("{:.2f} {}", value, units[unit]);
}

}  // namespace caravan::bench
