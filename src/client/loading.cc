#include "client/loading.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <format>

#include "base/log.h"
#include "base/size_text.h"

namespace caravan::client {
namespace {

constexpr milliseconds between_lines{200};
constexpr std::string_view rewrite = "\r\033[K";  // to the first column, and all behind it is gone

// A line that wraps cannot be rewritten.
size_t terminal_width() {
    winsize size{};
    return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

std::string LoadedWeights::text() const {
    const double seconds = std::max(std::chrono::duration<double>(time).count(), 1e-6);
    std::string out = std::format("{} of weights in {:.2f} s ({:.2f} GB/s)", size_text(bytes), seconds,
                                  static_cast<double>(bytes) / seconds / 1e9);
    if (from_cache > 0) {
        out += std::format(", {:.0f} % from its cache", 100 * static_cast<double>(from_cache) / static_cast<double>(bytes));
    }
    return out;
}

Loading::Loading(std::string endpoint, Terminal terminal)
    : endpoint_(std::move(endpoint)), terminal_(std::move(terminal)) {}

void Loading::begin(TimePoint time) {
    if (!is_under_way()) {
        begin_ = shown_ = time;
    }
}

void Loading::add(uint64_t bytes, bool from_cache, TimePoint time) {
    now_.bytes += bytes;
    now_.from_cache += from_cache ? bytes : 0;
    now_.time = time - begin_;
    if (terminal_ && time - shown_ >= between_lines) {
        shown_ = time;
        is_shown_ = true;
        const std::string line = std::format("RPC server {}: {}", endpoint_, now_.text());
        terminal_(std::format("{}{}", rewrite, std::string_view(line).substr(0, terminal_width() - 1)));
    }
}

void Loading::end() {
    if (!is_under_way()) {
        return;
    }
    if (is_shown_) {
        terminal_(std::format("{}RPC server {}: {}\n", rewrite, endpoint_, now_.text()));
    } else {
        log_info("RPC server {}: {}", endpoint_, now_.text());
    }
    total_.bytes += now_.bytes;
    total_.from_cache += now_.from_cache;
    total_.time += now_.time;
    now_ = {};
    is_shown_ = false;
}

Loading::Terminal stderr_terminal() {
    if (::isatty(STDERR_FILENO) == 0) {
        return {};
    }
    return [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); };
}

}  // namespace caravan::client
