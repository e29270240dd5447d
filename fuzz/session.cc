// A whole session, from behind the HELLO to its end. Built three times: stock_session and native_session check graphs
// and compute none, computing_session computes.
#include "server/session.h"

#include "device.h"
#include "kit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    fuzz::begin_run(CARAVAN_FUZZ_COMPUTES);
    fuzz::InputTransport transport(fuzz::input_bytes(data, size));
    server::Session session(transport, {}, fuzz::cpu(), nullptr, nullptr);
    const Error end = session.run();
    fuzz::require(!end.text.empty(), "a session ends for a reason");
    (void)session.summary();
    return 0;
}
