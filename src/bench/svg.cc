#include "bench/svg.h"

#include <format>

namespace caravan::bench {
namespace {

constexpr const char * style = R"(<style>
svg { color-scheme: light dark; font: 13px system-ui, sans-serif; }
.back { fill: #ffffff; } .words { fill: #1f2328; } .heading { fill: #1f2328; font-weight: 600; }
.grid { stroke: #d8dee4; } .whisker { stroke: #1f2328; stroke-width: 1.5; } .curve { fill: none; stroke-width: 2; }
.s0 { --c: #0969da; } .s1 { --c: #bc4c00; } .s2 { --c: #1a7f37; } .s3 { --c: #8250df; } .s4 { --c: #6e7781; }
.bar { fill: var(--c); } .curve { stroke: var(--c); } .dashed { stroke-dasharray: 6 4; }
@media (prefers-color-scheme: dark) {
.back { fill: #0d1117; } .words, .heading { fill: #e6edf3; } .grid { stroke: #30363d; } .whisker { stroke: #e6edf3; }
.s0 { --c: #58a6ff; } .s1 { --c: #f0883e; } .s2 { --c: #3fb950; } .s3 { --c: #bc8cff; } .s4 { --c: #9198a1; }
}
</style>
)";

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
    return std::format("<line class=\"{}\" x1=\"{:.1f}\" y1=\"{:.1f}\" x2=\"{:.1f}\" y2=\"{:.1f}\"/>\n", kind, x1, y1, x2, y2);
}

}  // namespace

Svg::Svg(double width, double height, std::string_view title) {
    out_ = std::format("<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"{0:.0f}\" height=\"{1:.0f}\" "
                       "viewBox=\"0 0 {0:.0f} {1:.0f}\" role=\"img\">\n<title>{2}</title>\n{3}"
                       "<rect class=\"back\" width=\"100%\" height=\"100%\"/>\n",
                       width, height, escaped(title), style);
}

void Svg::text(double x, double y, Anchor anchor, std::string_view words) {
    out_ += std::format("<text class=\"words\" x=\"{:.1f}\" y=\"{:.1f}\" text-anchor=\"{}\">{}</text>\n", x, y,
                        name_of(anchor), escaped(words));
}

void Svg::heading(double x, double y, std::string_view words) {
    out_ += std::format("<text class=\"heading\" x=\"{:.1f}\" y=\"{:.1f}\">{}</text>\n", x, y, escaped(words));
}

void Svg::grid(double x1, double y1, double x2, double y2) { out_ += line("grid", x1, y1, x2, y2); }

void Svg::bar(double x, double y, double width, double height, size_t series) {
    out_ += std::format("<rect class=\"bar s{}\" x=\"{:.1f}\" y=\"{:.1f}\" width=\"{:.1f}\" height=\"{:.1f}\"/>\n",
                        series % n_series, x, y, width, height);
}

void Svg::whisker(double x1, double x2, double y) {
    constexpr double half = 4;
    out_ += line("whisker", x1, y, x2, y) + line("whisker", x1, y - half, x1, y + half) +
            line("whisker", x2, y - half, x2, y + half);
}

void Svg::curve(const Points & points, size_t series, bool dashed) {
    out_ += std::format("<polyline class=\"curve s{}{}\" points=\"", series % n_series, dashed ? " dashed" : "");
    for (const auto & [x, y] : points) {
        out_ += std::format("{:.1f},{:.1f} ", x, y);
    }
    out_ += "\"/>\n";
}

}  // namespace caravan::bench
