// The front door: a client that has no session yet.
#include "server/supervisor/front_door.h"

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
        fuzz::require(door.prefix().size() <= 64, "at most one command is read");
        if (!wants || *wants == server::FrontDoor::Wants::more) {
            break;
        }
        if (*wants == server::FrontDoor::Wants::session) {
            fuzz::require(door.prefix().size() <= server::max_prefix, "the bytes read fit into the message to the worker");
            if (door.token() == 0 && door.send_position({1, wire::AdmissionReply::Reason::server_full, 1}) &&
                door.awaits_confirmation()) {
                const bool is_read = door.read_confirmation().has_value();
                fuzz::require(door.prefix().size() <= sizeof(wire::RequestHeader), "only the confirmation is read");
                fuzz::require(!door.is_confirmed() || is_read, "a confirmation that fails is none");
            }
            break;
        }
        fuzz::require(door.memory_device() < devices.size(), "the device exists");
        if (!door.answer_memory(1, 2)) {
            break;
        }
    }
    return 0;
}
