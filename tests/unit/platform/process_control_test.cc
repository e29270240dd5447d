#include "platform/process_control.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include <vector>

#include "platform/caught_signals.h"
#include "platform/spawn.h"
#include "support/ask_in_child.h"

namespace caravan::platform {
namespace {

using Kind = ChildEvent::Kind;

// Waits for the next event, which a signal announces.
ChildEvent wait_for_event(CaughtSignals & signals) {
    for (;;) {
        if (const auto event = next_child_event()) {
            return *event;
        }
        pollfd signal{signals.fd(), POLLIN, 0};
        ::poll(&signal, 1, -1);
        signals.read();
    }
}

// In a child process, since the handlers stay and all of its children are waited for.
TEST(ChildEvents, ReportStopsAndTheExitOfAnyChild) {
    EXPECT_EQ(test::ask_in_child([] {
                  auto signals = CaughtSignals::install();
                  if (!signals || next_child_event()) {
                      return false;
                  }
                  const auto child = spawn({.program = "/bin/sh", .arguments = {"sh", "-c", "kill -STOP $$; exit 3"}});
                  const ChildEvent stopped = wait_for_event(*signals);
                  ::kill(*child, SIGCONT);
                  ChildEvent exited = wait_for_event(*signals);
                  if (exited.kind == Kind::continued) {  // the exit may overtake it
                      exited = wait_for_event(*signals);
                  }
                  return stopped.kind == Kind::stopped && stopped.process == *child && exited.kind == Kind::exited &&
                         exited.process == *child && exited.status.code == 3 && exited.status.signal == 0 &&
                         !next_child_event();
              }),
              test::Outcome::yes);
}

TEST(SendSignal, EndsAProcess) {
    for (const auto & [signal, text] : {std::pair(Signal::interrupt, "signal 2 (Interrupt)"),
                                        std::pair(Signal::terminate, "signal 15 (Terminated)"),
                                        std::pair(Signal::kill, "signal 9 (Killed)")}) {
        const pid_t child = ::fork();
        if (child == 0) {
            ::signal(SIGINT, SIG_DFL);
            for (;;) {
                ::pause();
            }
        }
        send_signal(child, signal);
        const ExitStatus status = wait_for(child);
        EXPECT_EQ(status.text(), text);
        EXPECT_FALSE(status.is_success());
    }
}

TEST(ExitStatus, NamesTheExitCode) {
    EXPECT_EQ(ExitStatus{.code = 3}.text(), "exit code 3");
    EXPECT_TRUE(ExitStatus{}.is_success());
}

}  // namespace
}  // namespace caravan::platform
