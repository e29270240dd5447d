// The CPU device of this machine, opened once per process.
#pragma once

#include <gtest/gtest.h>

#include "server/graph/devices.h"
#include "support/ask_in_child.h"
#include "support/wire_peer.h"

namespace caravan::test {

inline server::Devices & cpu_devices() {
    static server::Devices devices = [] {
        auto opened = server::Devices::open({"CPU"}, 1);
        if (!opened) {
            ADD_FAILURE() << opened.error().text;
            std::abort();
        }
        return std::move(*opened);
    }();
    return devices;
}

}  // namespace caravan::test
