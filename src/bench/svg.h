// Writes the SVG elements that the plots need. Colours follow the reader's light or dark scheme.
#pragma once

#include <cstddef>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

namespace caravan::bench {

enum class Anchor { start, middle, end };

// Coordinates are pixels from the upper left corner. `series` selects a colour, modulo n_series.
class Svg {
public:
    static constexpr size_t n_series = 5;
    using Points = std::vector<std::pair<double, double>>;

    Svg(double width, double height, std::string_view title);

    void text(double x, double y, Anchor anchor, std::string_view words);
    void heading(double x, double y, std::string_view words);
    void grid(double x1, double y1, double x2, double y2);
    void bar(double x, double y, double width, double height, size_t series);
    void whisker(double x1, double x2, double y);  // horizontal
    void curve(const Points & points, size_t series, bool dashed);

    std::string document() const { return out_ + "</svg>\n"; }

private:
    std::string out_;
};

}  // namespace caravan::bench
