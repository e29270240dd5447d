#include <algorithm>
#include <cmath>
#include <string>
#include <vector>

#include "base/counted.h"
#include "base/formatted.h"
#include "bench/plot.h"
#include "bench/svg.h"

namespace caravan::bench {
namespace {

constexpr double width = 760, left = 100, right = 120, top = 54;
constexpr double row_height = 30, bar_height = 18, panel_head = 30, panel_foot = 40;
constexpr double plot_width = width - left - right;
constexpr int ticks = 5;

// The results of one test.
struct Panel {
    std::string test;
    std::vector<std::pair<size_t, Summary>> bars;  // by arrangement
};

std::vector<Panel> panels_of(const std::vector<Comparison> & comparisons) {
    std::vector<Panel> out;
    for (size_t i = 0; i < comparisons.size(); ++i) {
        for (const Row & row : comparisons[i].rows) {
            auto panel = std::ranges::find(out, row.test, &Panel::test);
            if (panel == out.end()) {
                panel = out.insert(out.end(), Panel{row.test, {}});
            }
            panel->bars.emplace_back(i, row.tokens_per_second);
        }
    }
    return out;
}

double height_of(const Panel & panel) {
    return panel_head + row_height * static_cast<double>(panel.bars.size()) + panel_foot;
}

void draw(Svg & svg, double y, const Panel & panel, const ModelBench & bench) {
    double most = 0;
    for (const auto & [i, rate] : panel.bars) {
        most = std::max(most, rate.max);
    }
    const double step = round_up(most / ticks), end = std::ceil(most / step) * step;
    const auto x_of = [&](double value) { return left + value / end * plot_width; };
    const double bottom = y + height_of(panel) - panel_foot;
    svg.heading(left, y + 14, panel.test + ", tokens per second");
    for (double tick = 0; tick <= end + step / 2; tick += step) {
        svg.grid(x_of(tick), y + panel_head - 6, x_of(tick), bottom);
        svg.text(x_of(tick), bottom + 16, Anchor::middle, formatted("{:g}", tick));
    }
    double row = y + panel_head;
    for (const auto & [i, rate] : panel.bars) {
        const double middle = row + bar_height / 2;
        svg.text(left - 8, middle + 4, Anchor::end, bench.measured[i].arrangement.name());
        svg.bar(left, row, x_of(rate.median) - left, bar_height, static_cast<size_t>(bench.measured[i].arrangement.kind));
        svg.whisker(x_of(rate.min), x_of(rate.max), middle);
        svg.text(width - right + 12, middle + 4, Anchor::start, formatted("{:.2f}", rate.median));
        row += row_height;
    }
}

}  // namespace

double round_up(double value) {
    const double power = std::pow(10, std::floor(std::log10(value)));
    for (const double step : {1.0, 2.0, 5.0}) {
        if (value <= step * power * (1 + 1e-9)) {
            return step * power;
        }
    }
    return 10 * power;
}

std::string plot(const ModelBench & bench) {
    const std::vector<Panel> panels = panels_of(compare(bench.measured));
    double height = top;
    for (const Panel & panel : panels) {
        height += height_of(panel);
    }
    const std::string title = bench.facts.type.empty() ? "nothing was measured" : bench.facts.type;
    Svg svg(width, height, title);
    svg.heading(16, 24, title);
    svg.text(16, 42, Anchor::start,
             formatted("median of {}; the line spans slowest to fastest", counted(bench.rounds, "round")));
    double y = top;
    for (const Panel & panel : panels) {
        draw(svg, y, panel, bench);
        y += height_of(panel);
    }
    return svg.document();
}

}  // namespace caravan::bench
