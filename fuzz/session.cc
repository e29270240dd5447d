// A complete session after HELLO. Built three times: stock_session and native_session build and check graphs without
// computing them; computing_session computes them.
#include "server/session/session.h"

#include "device.h"
#include "kit.h"
#include "net/socket.h"

namespace {

using namespace caravan;

// A connection over loopback from rank 1 of a comm, which has sent its greeting and some numbers, and sends no more.
Result<UniqueFd> rank_1() {
    static auto listeners = net::listen_on("127.0.0.1", 0);
    static UniqueFd far;
    fuzz::require(listeners.has_value(), "loopback exists");
    auto connected = net::connect_socket(listeners->front().endpoint, Clock::now() + seconds(10));
    fuzz::require(connected.has_value(), "loopback connects");
    far = std::move(*connected);
    constexpr std::array<std::byte, 4096> sent{};
    (void)!::send(far.get(), sent.data(), sent.size(), MSG_NOSIGNAL);
    ::shutdown(far.get(), SHUT_WR);
    return net::accept_socket(listeners->front().fd.get());
}

}  // namespace

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    fuzz::begin_run(CARAVAN_FUZZ_COMPUTES);
    fuzz::InputTransport transport(fuzz::input_bytes(data, size));
    server::StockPairing pairing({.reserve = [] { return Result<>(); },
                                  .accept = [](uint32_t, TimePoint) { return rank_1(); },
                                  .stop_accepting = [] {},
                                  .release = [] {}},
                                 net::Networks::loopback(), net::addresses_of, seconds(1), milliseconds(0));
    server::Session session(transport, {}, fuzz::cpu(), nullptr, nullptr);
    session.use_pairing(pairing);
    const Error end = session.run();
    fuzz::require(!end.text.empty(), "the end of a session has a reason");
    (void)session.counters();
    return 0;
}
