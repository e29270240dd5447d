// A complete session after HELLO. Built three times: stock_session and native_session build and check graphs without
// computing them; computing_session computes them.
#include "server/session/session.h"

#include "device.h"
#include "kit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    fuzz::begin_run(CARAVAN_FUZZ_COMPUTES);
    fuzz::InputTransport transport(fuzz::input_bytes(data, size));
    server::Session session(transport, {}, fuzz::cpu(), nullptr, nullptr);
    const Error end = session.run();
    fuzz::require(!end.text.empty(), "the end of a session has a reason");
    (void)session.counters();
    return 0;
}
