// Endpoint texts from users and peers.
#include "net/endpoint.h"

#include "kit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    const std::string_view text(reinterpret_cast<const char *>(data), size);
    if (const auto endpoint = net::parse_endpoint(text)) {
        fuzz::require(net::parse_endpoint(endpoint->text()) == *endpoint, "an endpoint survives a round trip");
    }
    return 0;
}
