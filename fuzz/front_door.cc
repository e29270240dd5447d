// A client before it has a session.
#include "server/front_door.h"

#include "kit.h"

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    static const std::vector<server::ControlMessage> devices = [] {
        server::ControlMessage device{.alignment = 32, .max_size = 1 << 20};
        device.set_text("CPU: a processor");
        server::ControlMessage odd = device;
        odd.set_text("no colon");
        return std::vector{device, odd};
    }();
    fuzz::InputSocket socket(fuzz::input_bytes(data, size));
    server::FrontDoor door(std::move(socket.near), "fuzz", true);
    for (;;) {
        const auto wants = door.advance(devices);
        fuzz::require(door.prefix().size() <= 64, "no more than a command is read");
        if (!wants || *wants == server::FrontDoor::Wants::more) {
            break;
        }
        if (*wants == server::FrontDoor::Wants::session) {
            fuzz::require(door.prefix().size() <= server::max_prefix, "what was read fits into the worker's message");
            break;
        }
        fuzz::require(door.memory_device() < devices.size(), "only devices that are there are asked about");
        if (!door.answer_memory(1, 2)) {
            break;
        }
    }
    return 0;
}
