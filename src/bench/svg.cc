#include "bench/svg.h"

#include <array>

#include "base/formatted.h"

namespace caravan::bench {
namespace {

struct Scheme {
    const char * back, * words, * grid;
    std::array<const char *, Svg::n_series> series;
};
constexpr Scheme light{"#ffffff", "#1f2328", "#d8dee4", {"#0969da", "#bc4c00", "#1a7f37", "#8250df", "#6e7781"}};
constexpr Scheme dark{"#0d1117", "#e6edf3", "#30363d", {"#58a6ff", "#f0883e", "#3fb950", "#bc8cff", "#9198a1"}};

// No CSS variables: not every SVG viewer supports them.
std::string colours(const Scheme & scheme) {
    std::string out = formatted(".back {{ fill: {}; }} .words, .heading {{ fill: {}; }} .grid {{ stroke: {}; }}\n"
                                ".whisker {{ stroke: {}; }}\n",
                                scheme.back, scheme.words, scheme.grid, scheme.words);
    for (size_t i = 0; i < scheme.series.size(); ++i) {
        out += formatted(".bar{0} {{ fill: {1}; }} .curve{0} {{ stroke: {1}; }}\n", i, scheme.series[i]);
    }
    return out;
}

std::string style() {
    return "<style>\ntext { font: 13px system-ui, sans-serif; } .heading { font-weight: 600; }\n"
           ".whisker { stroke-width: 1.5; } polyline { fill: none; stroke-width: 2; }\n"
           ".dashed { stroke-dasharray: 6 4; }\n" +
           colours(light) + "@media (prefers-color-scheme: dark) {\n" + colours(dark) + "}\n</style>\n";
}

std::string escaped(std::string_view words) {
    std::string out;
    for (const char c : words) {
        switch (c) {
            case '&': out += "&amp;"; break;
            case '<': out += "&lt;"; break;
            case '>': out += "&gt;"; break;
            default: out += c;
        }
    }
    return out;
}

const char * name_of(Anchor anchor) {
    switch (anchor) {
        case Anchor::start: return "start";
        case Anchor::middle: return "middle";
        case Anchor::end: return "end";
    }
    return "";
}

std::string line(std::string_view kind, double x1, double y1, double x2, double y2) {
    return formatted("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kind, x1, y1, x2,
                     y2);
}

}  // namespace

Svg::Svg(double width, double height, std::string_view title) {
    out_ = formatted("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
                     "viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\">\n<title>{2}</title>\n{3}"
                     "<rect class=\"back\" width=\"100%\" height=\"100%\"/>\n",
                     width, height, escaped(title), style());
}

void Svg::text(double x, double y, Anchor anchor, std::string_view words) {
    out_ += formatted("<text class=\"words\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y,
                      name_of(anchor), escaped(words));
}

void Svg::heading(double x, double y, std::string_view words) {
    out_ += formatted("<text class=\"heading\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x, y, escaped(words));
}

void Svg::grid(double x1, double y1, double x2, double y2) { out_ += line("grid", x1, y1, x2, y2); }

void Svg::bar(double x, double y, double width, double height, size_t series) {
    out_ += formatted("<rect class=\"bar{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
                      series % n_series, x, y, width, height);
}

void Svg::whisker(double x1, double x2, double y) {
    constexpr double half = 4;
    out_ += line("whisker", x1, y, x2, y) + line("whisker", x1, y - half, x1, y + half) +
            line("whisker", x2, y - half, x2, y + half);
}

void Svg::curve(const Points & points, size_t series, bool dashed) {
    out_ += formatted("<polyline class=\"curve{}{}\" points=\"", series % n_series, dashed ? " dashed" : "");
    for (const auto & [x, y] : points) {
        out_ += formatted("{:.1f},{:.1f} ", x, y);
    }
    out_ += "\"/>\n";
}

}  // namespace caravan::bench
