// The queries of a client before its first session, with a server that sends the input. Each connection gets the input from
// its start.
#include "client/session/remote_server.h"

#include "hostile_server.h"

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    static fuzz::HostileServer & hostile = *new fuzz::HostileServer;
    hostile.reply_with(fuzz::input_bytes(data, size));
    const auto server = client::RemoteServer::reach(hostile.endpoint());
    if (!server) {
        return 0;
    }
    for (uint32_t device = 0; device < (*server)->device_count(); ++device) {
        const uint64_t alignment = (*server)->alignment(device);
        fuzz::require((alignment & (alignment - 1)) == 0 && alignment > 0, "the alignment is a power of two");
        fuzz::require((*server)->max_size(device) > 0, "the maximum size is not 0");
        fuzz::require((*server)->description(device).starts_with("unix:"), "a device has a description");
    }
    if ((*server)->device_count() > 0) {
        (void)(*server)->memory(0);
    }
    return 0;
}
