#include "base/config.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <string>

#include "base/log.h"
#include "base/printable.h"

namespace caravan {
namespace {

std::atomic<bool> is_silent = false;

constexpr std::array<std::string_view, 3> transport_modes{"auto", "tcp", "rdma"};

void report(const char * name, std::string_view value, std::string_view accepted, std::string_view default_text) {
    if (!is_silent) {
        log_warning("{}=\"{}\" is not {}; using the default, {}", name, printable(value), accepted, default_text);
    }
}

}  // namespace

int64_t env_integer(const char * name, int64_t fallback, int64_t low, int64_t high, std::string_view default_text) {
    const std::string_view text = text_of_variable(name);
    if (text.empty()) {
        return fallback;
    }
    int64_t value = 0;
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
    if (error != std::errc() || end != text.data() + text.size() || value < low || value > high) {
        report(name, text, formatted("a whole number from {} to {}", low, high),
               default_text.empty() ? formatted("{}", fallback) : std::string(default_text));
        return fallback;
    }
    return value;
}

int64_t env_integer(const Variable & variable) {
    int64_t fallback = -1;
    std::from_chars(variable.fallback.data(), variable.fallback.data() + variable.fallback.size(), fallback);
    return env_integer(variable.name, fallback, variable.low, variable.high, variable.fallback);
}

size_t env_choice(const char * name, std::span<const std::string_view> words, size_t fallback) {
    const std::string_view text = text_of_variable(name);
    if (text.empty()) {
        return fallback;
    }
    std::string accepted;
    for (size_t i = 0; i < words.size(); ++i) {
        if (words[i] == text) {
            return i;
        }
        accepted += (i == 0 ? "" : i + 1 == words.size() ? " or " : ", ");
        accepted += words[i];
    }
    report(name, text, accepted, words[fallback]);
    return fallback;
}

bool env_flag(const char * name, bool fallback) {
    constexpr std::array<std::string_view, 4> on{"1", "yes", "on", "true"}, off{"0", "no", "off", "false"};
    const std::string_view text = text_of_variable(name);
    if (!text.empty() && std::ranges::contains(on, text) == std::ranges::contains(off, text)) {
        report(name, text, "0 or 1", fallback ? "1" : "0");
        return fallback;
    }
    return text.empty() ? fallback : std::ranges::contains(on, text);
}

void silence_environment_warnings() { is_silent = true; }

void check_environment(bool injects_faults) {
    if (!injects_faults && !text_of(variable::fault).empty() && !is_silent) {
        log_warning("GGML_RPC_FAULT is ignored: this build has no fault injection (-DCARAVAN_FAULTS=ON)");
    }
    (void)debug_enabled();
    (void)reply_timeout();
    (void)connect_timeout();
    (void)reconnect_time();
    (void)poll_time();
    (void)dialect_is_native();
    (void)prompts_are_rounded();
    (void)transport_mode();
    (void)on_loss();
    (void)servers_are_required();
    (void)reductions_are_checked();
}

seconds reply_timeout() {
    static const seconds value{env_integer(variable::timeout)};
    return value;
}

seconds connect_timeout() {
    static const seconds value{env_integer(variable::connect_timeout)};
    return value;
}

seconds reconnect_time() {
    static const seconds value{env_integer(variable::reconnect)};
    return value;
}

std::optional<microseconds> poll_time() {
    static const int64_t value = env_integer(variable::poll);
    return value < 0 ? std::nullopt : std::optional(microseconds(value));
}

bool dialect_is_native() {
    static const bool value = [] {
        constexpr std::array<std::string_view, 2> words{"native", "stock"};
        return env_choice(variable::dialect.name, words, 0) == 0;
    }();
    return value;
}

bool shares_memory() {
    static const bool value = [] {
        constexpr std::array<std::string_view, 2> words{"auto", "off"};
        return env_choice(variable::shared_memory.name, words, 0) == 0;
    }();
    return value;
}

bool prompts_are_rounded() {
    static const bool value = [] {
        constexpr std::array<std::string_view, 2> words{"f32", "bf16"};
        return env_choice(variable::reduce.name, words, 0) == 1;
    }();
    return value;
}

TransportMode transport_mode() {
    static const auto value = static_cast<TransportMode>(env_choice(variable::transport.name, transport_modes, 0));
    return value;
}

std::string_view text_of(TransportMode mode) { return transport_modes[static_cast<size_t>(mode)]; }

OnLoss on_loss() {
    static const OnLoss value = [] {
        constexpr std::array<std::string_view, 2> words{"fail", "exit"};
        return static_cast<OnLoss>(env_choice(variable::on_loss.name, words, 0));
    }();
    return value;
}

bool servers_are_required() {
    static const bool value = env_flag(variable::require.name, false);
    return value;
}

bool reductions_are_checked() {
    static const bool value = env_flag(variable::check_reduce.name, false);
    return value;
}

}  // namespace caravan
