// The CPU device of this machine, opened once per process, and a helper that runs code which may crash in a child process.
#pragma once

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

#include "server/graph/devices.h"
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

enum class Outcome { yes, no, died };

// Runs `question` in a child process without output, for at most 10 s, and returns its result.
inline Outcome ask_in_child(const std::function<bool()> & question) {
    const pid_t child = ::fork();
    if (child == 0) {
        const int null = ::open("/dev/null", O_WRONLY);
        ::dup2(null, 1);
        ::dup2(null, 2);
        ::alarm(10);
        ::_exit(question() ? 0 : 3);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) {
        return WEXITSTATUS(status) == 0 ? Outcome::yes : Outcome::no;
    }
    return Outcome::died;
}

}  // namespace caravan::test
