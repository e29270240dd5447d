// A server that links with a session: its first command, then its pushes.
#include "kit.h"
#include "net/server_handshake.h"
#include "server/links/links.h"

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    const ConstBytes input = fuzz::input_bytes(data, size);
    const ConstBytes first = input.first(std::min(size, sizeof(wire::RequestHeader)));  // read by the front door
    fuzz::InputSocket socket(input.subspan(first.size()));
    auto inbound = net::accept_with_token(std::move(socket.near), first, true, [] { return true; });
    if (!inbound || inbound->resume) {
        return 0;
    }
    server::LinkReceiver receiver(std::move(inbound->transport));
    std::array<std::byte, 64> region;
    for (size_t length = 0; receiver.begin(length); length = (length + 16) % region.size()) {
        if (!receiver.bytes().read_into(MutableBytes(region).first(length))) {
            break;
        }
    }
    return 0;
}
