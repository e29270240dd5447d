#include <algorithm>
#include <cmath>
#include <functional>
#include <string>
#include <vector>

#include "base/formatted.h"
#include "bench/plot.h"
#include "bench/report.h"
#include "bench/svg.h"
#include "bench/table.h"

namespace caravan::bench {
namespace {

constexpr double width = 760, left = 80, right = 40, top = 16;
constexpr double plot_height = 240, panel_height = 330, legend_row = 20;

using Value = std::function<double(const LinkRow &)>;

// A logarithmic scale whose ends are powers of `base`.
struct LogScale {
    double base, low, high;  // exponents
    double begin, end;       // pixels

    double at(double value) const {
        return begin + (std::log(value) / std::log(base) - low) / (high - low) * (end - begin);
    }
};

LogScale scale_over(const std::vector<double> & values, double base, double begin, double end) {
    const auto [least, most] = std::ranges::minmax(values);
    const double low = std::floor(std::log(least) / std::log(base) + 1e-9);
    const double high = std::ceil(std::log(most) / std::log(base) - 1e-9);
    return {base, low, std::max(high, low + 1), begin, end};
}

void draw(Svg & svg, double y, const std::string & heading, const std::vector<std::vector<LinkRow>> & links,
          const Value & solid, const Value & dashed) {
    std::vector<double> sizes, values;
    for (const auto & rows : links) {
        for (const LinkRow & row : rows) {
            sizes.push_back(static_cast<double>(row.bytes));
            values.insert(values.end(), {solid(row), dashed(row)});
        }
    }
    const double bottom = y + 24 + plot_height;
    const LogScale across = scale_over(sizes, 4, left, width - right), up = scale_over(values, 10, bottom, y + 24);
    svg.heading(left, y + 12, heading);
    for (double exponent = across.low; exponent <= across.high; ++exponent) {
        const double size = std::pow(4, exponent);
        svg.grid(across.at(size), y + 24, across.at(size), bottom);
        svg.text(across.at(size), bottom + 18, Anchor::middle, size_text(static_cast<uint64_t>(size)));
    }
    svg.text((left + width - right) / 2, bottom + 38, Anchor::middle, "message size");
    for (double exponent = up.low; exponent <= up.high; ++exponent) {
        const double value = std::pow(10, exponent);
        svg.grid(left, up.at(value), width - right, up.at(value));
        svg.text(left - 8, up.at(value) + 4, Anchor::end, formatted("{:g}", value));
    }
    for (size_t i = 0; i < links.size(); ++i) {
        Svg::Points full, broken;
        for (const LinkRow & row : links[i]) {
            const double x = across.at(static_cast<double>(row.bytes));
            full.emplace_back(x, up.at(solid(row)));
            broken.emplace_back(x, up.at(dashed(row)));
        }
        svg.curve(full, i, false);
        svg.curve(broken, i, true);
    }
}

}  // namespace

std::string plot(const LinkBench & bench) {
    std::vector<std::vector<LinkRow>> links;
    std::vector<std::string> names;
    for (const Link & link : bench.links) {
        auto rows = rows_of(link);
        if (!rows.empty()) {
            links.push_back(std::move(rows));
            names.push_back(formatted("{} over {}", link.endpoint, link.transport_text()));
        }
    }
    const double legend = legend_row * static_cast<double>(names.size());
    Svg svg(width, links.empty() ? 60 : top + legend + 2 * panel_height, "round trips and bandwidth by message size");
    if (links.empty()) {
        svg.heading(16, 36, "nothing was measured");
        return svg.document();
    }
    for (size_t i = 0; i < names.size(); ++i) {
        const double y = top + legend_row * static_cast<double>(i) + 8;
        svg.curve({{left, y - 4}, {left + 28, y - 4}}, i, false);
        svg.text(left + 36, y, Anchor::start, names[i]);
    }
    draw(svg, top + legend + 8, "round trip, µs: median; dashed: 99th percentile", links, &LinkRow::p50_us,
         &LinkRow::p99_us);
    draw(svg, top + legend + 8 + panel_height, "bandwidth, MB/s: to the server; dashed: from the server", links,
         [](const LinkRow & row) { return row.to_server.median / 1e6; },
         [](const LinkRow & row) { return row.from_server.median / 1e6; });
    return svg.document();
}

}  // namespace caravan::bench
