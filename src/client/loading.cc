#include "client/loading.h"

#include <sys/ioctl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "base/printable.h"
#include "base/size_text.h"

namespace caravan::client {
namespace {

constexpr milliseconds between_lines{200};
constexpr uint64_t most_padding = 4096;
constexpr std::string_view rewrite = "\r\033[K";  // to the first column, and all behind it is gone

// A line that wraps cannot be rewritten.
size_t terminal_width() {
    winsize size{};
    return ::ioctl(STDERR_FILENO, TIOCGWINSZ, &size) == 0 && size.ws_col > 0 ? size.ws_col : 80;
}

}  // namespace

double LoadedWeights::seconds() const { return std::chrono::duration<double>(time).count(); }

double LoadedWeights::gigabytes_per_second() const {
    return static_cast<double>(bytes) / std::max(seconds(), 1e-6) / 1e9;
}

std::string LoadedWeights::share_text() const {
    return from_cache == 0 ? ""
                           : formatted(", {:.0f} % from its cache",
                                       100 * static_cast<double>(from_cache) / static_cast<double>(bytes));
}

std::string LoadedWeights::text() const {
    return formatted("{} of weights in {:.2f} s ({:.2f} GB/s){}", size_text(bytes), seconds(), gigabytes_per_second(),
                     share_text());
}

Loading::Loading(std::string_view endpoint, Terminal terminal)
    : endpoint_(printable(endpoint)), terminal_(std::move(terminal)) {}

void Loading::begin(uint64_t buffer, uint64_t buffer_size, TimePoint time) {
    if (!is_under_way()) {
        begin_ = shown_ = time;
    }
    if (buffers_.insert(buffer).second) {
        expected_ += buffer_size;
    }
}

// Between weights there may be padding.
bool Loading::is_nearly_done() const { return now_.bytes + pieces_ * most_padding >= expected_; }

void Loading::add(uint64_t bytes, bool from_cache, TimePoint time) {
    now_.bytes += bytes;
    now_.from_cache += from_cache ? bytes : 0;
    now_.time = std::max(now_.time, time - begin_);
    ++pieces_;
    if (is_nearly_done()) {
        if (is_shown_) {
            finish_line();
        }
    } else if (terminal_ && time - shown_ >= between_lines) {
        shown_ = time;
        is_shown_ = true;
        const std::string line = formatted("RPC server {}: {} of {} of weights, {:.2f} GB/s{}", endpoint_,
                                           size_text(now_.bytes), size_text(expected_), now_.gigabytes_per_second(),
                                           now_.share_text());
        terminal_(formatted("{}{}", rewrite, std::string_view(line).substr(0, terminal_width() - 1)));
    }
}

void Loading::finish_line() {
    terminal_(formatted("{}RPC server {}: {}\n", rewrite, endpoint_, now_.text()));
    is_shown_ = false;
    told_ = now_.bytes;
}

void Loading::end() {
    if (!is_under_way()) {
        return;
    }
    if (is_shown_) {
        finish_line();
    } else if (now_.bytes == 0) {
        // The server was lost before it answered.
    } else if (told_ == 0 || told_ + pieces_ * most_padding < now_.bytes) {
        log_info("RPC server {}: {}", endpoint_, now_.text());
    }
    total_.bytes += now_.bytes;
    total_.from_cache += now_.from_cache;
    total_.time += now_.time;
    now_ = {};
    buffers_.clear();
    expected_ = pieces_ = told_ = 0;
}

Loading::Terminal stderr_terminal() {
    if (::isatty(STDERR_FILENO) == 0) {
        return {};
    }
    return [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); };
}

void tell_person(const std::string & line) {
    if (const auto terminal = stderr_terminal()) {
        terminal(line + "\n");
    } else {
        log_error("{}", line);
    }
}

}  // namespace caravan::client
