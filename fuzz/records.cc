// The records of a resumable session, from a hostile peer, over a connection and the one that replaces it.
#include "kit.h"
#include "net/resume/resumable_transport.h"

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    ConstBytes input = fuzz::input_bytes(data, size);
    const auto received = fuzz::take_number<uint64_t>(input);
    const auto cut = fuzz::take_number<uint16_t>(input);
    const ConstBytes first = input.first(std::min<size_t>(cut, input.size()));
    net::ResumableTransport transport(std::make_unique<fuzz::InputTransport>(first),
                                      {.name = "hostile", .grace = seconds(0), .reconnect = {}, .while_connected = {}});
    const std::array<std::byte, 3000> reply{};
    std::array<std::byte, 5000> taken;
    for (int turn = 0; turn < 200; ++turn) {
        const std::array parts{ConstBytes(reply).first(static_cast<size_t>(turn) * 15), ConstBytes(reply)};
        const auto some = transport.send(parts);
        const std::array places{MutableBytes(taken).first(static_cast<size_t>(turn) + 1),
                                MutableBytes(taken).subspan(201)};
        const auto got = transport.receive(places);
        if (!some || !got) {
            return 0;
        }
        if (turn == 3 && received % 2 == 0) {
            (void)transport.take_over(std::make_unique<fuzz::InputTransport>(input.subspan(first.size())), {received, 1});
        }
    }
    return 0;
}
