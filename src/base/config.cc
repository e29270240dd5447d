#include "base/config.h"

#include <charconv>
#include <cstdlib>
#include <string_view>

#include "base/log.h"

namespace caravan {

int64_t env_integer(const char * name, int64_t fallback, int64_t low, int64_t high) {
    const char * text = std::getenv(name);
    if (text == nullptr || *text == '\0') {
        return fallback;
    }
    const std::string_view view(text);
    int64_t value = 0;
    const auto [end, error] = std::from_chars(view.data(), view.data() + view.size(), value);
    if (error != std::errc() || end != view.data() + view.size() || value < low || value > high) {
        log_warning("{}=\"{}\" is not a whole number from {} to {}: using the default", name, view, low, high);
        return fallback;
    }
    return value;
}

seconds answer_timeout() {
    static const seconds value{env_integer("GGML_RPC_TIMEOUT_S", 300, 1, 7 * 24 * 3600)};
    return value;
}

seconds connect_timeout() {
    static const seconds value{env_integer("GGML_RPC_CONNECT_TIMEOUT_S", 10, 1, 3600)};
    return value;
}

seconds reconnect_time() {
    static const seconds value{env_integer("GGML_RPC_RECONNECT_S", 60, 0, 24 * 3600)};
    return value;
}

microseconds poll_time() {
    static const microseconds value{env_integer("GGML_RPC_POLL_US", 50, 0, 1'000'000)};
    return value;
}

}  // namespace caravan
