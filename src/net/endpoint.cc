#include "net/endpoint.h"

#include <algorithm>
#include <charconv>

#include "base/formatted.h"
#include "platform/address.h"

namespace caravan::net {
namespace {

constexpr std::string_view expected_forms = "expected host:port, [ipv6]:port, host or unix:/path";

Result<uint16_t> parse_port(std::string_view digits, std::string_view whole) {
    unsigned value = 0;
    const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), value);
    if (error != std::errc() || end != digits.data() + digits.size() || value == 0 || value > 65535) {
        return fail(Errc::invalid_argument, "endpoint \"{}\": \"{}\" is not a port (1 to 65535)", whole, digits);
    }
    return static_cast<uint16_t>(value);
}

}  // namespace

std::string Endpoint::text() const {
    if (kind == Kind::unix_socket) {
        return "unix:" + path;
    }
    const bool in_brackets = host.contains(':') || host == "unix";  // "unix:50052" would be a path
    return in_brackets ? formatted("[{}]:{}", host, port) : formatted("{}:{}", host, port);
}

std::string_view without_endpoint(const Endpoint & endpoint, std::string_view text) {
    const std::string prefix = endpoint.text() + ": ";
    return text.starts_with(prefix) ? text.substr(prefix.size()) : text;
}

Result<std::string> parse_listen_host(std::string_view text) {
    if (text.starts_with("unix:")) {
        return text.size() > 5 ? Result<std::string>(std::string(text))
                               : fail(Errc::invalid_argument, "\"{}\": no path after unix:", text);
    }
    const size_t close = text.find(']');
    const bool in_brackets = text.starts_with('[') && close != text.npos;
    const std::string_view host = in_brackets                             ? text.substr(1, close - 1)
                                  : std::ranges::count(text, ':') == 1 ? text.substr(0, text.find(':'))
                                                                          : text;
    const std::string_view rest = in_brackets ? text.substr(close + 1) : text.substr(host.size());
    if (rest.size() > 1 && rest.starts_with(':') && rest.find_first_not_of("0123456789", 1) == rest.npos) {
        return fail(Errc::invalid_argument, "\"{}\" contains a port; pass it separately: -H {} -p {}", text,
                    host.empty() ? "0.0.0.0" : host, rest.substr(1));
    }
    if (host.empty() || !rest.empty() || host.find_first_of("[]/ ") != host.npos) {
        return fail(Errc::invalid_argument, "\"{}\" is not an address, a host name or unix:/path", text);
    }
    return std::string(host);
}

Result<Endpoint> parse_endpoint(std::string_view text) {
    const size_t begin = std::min(text.find_first_not_of(' '), text.size());
    text = text.substr(begin, text.find_last_not_of(' ') + 1 - begin);  // people write "a, b"
    Endpoint endpoint;
    if (text.starts_with("unix:")) {
        endpoint.kind = Endpoint::Kind::unix_socket;
        endpoint.path = text.substr(5);
        if (endpoint.path.empty()) {
            return fail(Errc::invalid_argument, "endpoint \"{}\": no path after unix:", text);
        }
        return endpoint;
    }
    std::string_view host = text;
    std::string_view after;  // ":port" or nothing
    if (text.starts_with('[')) {
        const size_t close = text.find(']');
        if (close == text.npos) {
            return fail(Errc::invalid_argument, "endpoint \"{}\": no ] after the IPv6 address", text);
        }
        host = text.substr(1, close - 1);
        after = text.substr(close + 1);
    } else if (std::ranges::count(text, ':') == 1) {
        host = text.substr(0, text.find(':'));
        after = text.substr(text.find(':'));
    }
    if (host.contains(':') && !platform::parse_ip(host)) {
        return fail(Errc::invalid_argument, "endpoint \"{}\": {}", text, expected_forms);
    }
    const bool odd = std::ranges::any_of(host, [](unsigned char c) { return c <= ' ' || c == '/' || c == '[' || c == ']'; });
    if (host.empty() || odd || (!after.empty() && after.front() != ':')) {
        return fail(Errc::invalid_argument, "endpoint \"{}\": {}", text, expected_forms);
    }
    if (!after.empty()) {
        auto port = parse_port(after.substr(1), text);
        if (!port) {
            return std::unexpected(port.error());
        }
        endpoint.port = *port;
    }
    endpoint.host = host;
    return endpoint;
}

}  // namespace caravan::net
