#include "client/weights/loading.h"

#include <algorithm>
#include <cstdio>

#include "base/log.h"
#include "base/printable.h"
#include "base/size_text.h"
#include "platform/terminal.h"
#include "tunables/client.h"

namespace caravan::client {
namespace {

constexpr uint64_t max_padding = 4096;
constexpr std::string_view rewrite = "\r\033[K";  // return to the first column and clear the line

}  // namespace

double LoadedWeights::seconds() const { return std::chrono::duration<double>(time).count(); }

double LoadedWeights::gigabytes_per_second() const {
    return static_cast<double>(bytes) / std::max(seconds(), 1e-6) / 1e9;
}

std::string LoadedWeights::share_text() const {
    return from_cache == 0 ? ""
                           : formatted(", {:.0f} % already on the server",
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

// Buffers may have padding between weights.
bool Loading::is_nearly_done() const { return current_.bytes + pieces_ * max_padding >= expected_; }

void Loading::add(uint64_t bytes, bool from_cache, TimePoint time) {
    current_.bytes += bytes;
    current_.from_cache += from_cache ? bytes : 0;
    current_.time = std::max(current_.time, time - begin_);
    ++pieces_;
    if (is_nearly_done()) {
        if (is_line_open_) {
            finish_line();
        }
    } else if (terminal_ && time - shown_ >= tunable::progress_redraw_interval) {
        shown_ = time;
        is_line_open_ = true;
        const std::string line = formatted("RPC server {}: {} of {}, {:.2f} GB/s{}", endpoint_,
                                           size_text(current_.bytes), size_text(expected_), current_.gigabytes_per_second(),
                                           current_.share_text());
        // A line that wraps cannot be rewritten.
        terminal_(formatted("{}{}", rewrite, std::string_view(line).substr(0, platform::terminal_width() - 1)));
    }
}

void Loading::finish_line() {
    terminal_(formatted("{}RPC server {}: {}\n", rewrite, endpoint_, current_.text()));
    is_line_open_ = false;
    reported_bytes_ = current_.bytes;
}

void Loading::end() {
    if (!is_under_way()) {
        return;
    }
    if (is_line_open_) {
        finish_line();
    } else if (current_.bytes == 0) {
        // The server was lost before it replied.
    } else if (reported_bytes_ == 0 || reported_bytes_ + pieces_ * max_padding < current_.bytes) {
        log_info("RPC server {}: {}", endpoint_, current_.text());
    }
    total_.bytes += current_.bytes;
    total_.from_cache += current_.from_cache;
    total_.time += current_.time;
    current_ = {};
    buffers_.clear();
    expected_ = pieces_ = reported_bytes_ = 0;
}

Loading::Terminal stderr_terminal() {
    if (!platform::stderr_is_terminal()) {
        return {};
    }
    return [](std::string_view text) { std::fwrite(text.data(), 1, text.size(), stderr); };
}

void notify_user(const std::string & line) {
    if (const auto terminal = stderr_terminal()) {
        terminal(line + "\n");
    } else {
        log_error("{}", line);
    }
}

}  // namespace caravan::client
