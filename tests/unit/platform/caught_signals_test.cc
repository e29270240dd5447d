#include "platform/caught_signals.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <signal.h>

#include "support/ask_in_child.h"

namespace caravan::platform {
namespace {

bool is_readable(int fd) {
    pollfd poll{fd, POLLIN, 0};
    return ::poll(&poll, 1, 0) == 1;
}

// In a child process, since the handlers stay.
TEST(CaughtSignals, CountsRequestsToStopAndKeepsTheFirstSignal) {
    EXPECT_EQ(test::ask_in_child([] {
                  auto signals = CaughtSignals::install();
                  if (!signals || is_readable(signals->fd())) {
                      return false;
                  }
                  ::raise(SIGCHLD);
                  const bool wakes = is_readable(signals->fd());
                  signals->read();
                  const bool is_no_request = signals->stop_requests() == 0 && !is_readable(signals->fd());
                  ::raise(SIGINT);
                  ::raise(SIGTERM);
                  ::raise(SIGPIPE);
                  signals->read();
                  return wakes && is_no_request && signals->stop_requests() == 2 && signals->stop_signal() == Signal::interrupt;
              }),
              test::Outcome::yes);
}

}  // namespace
}  // namespace caravan::platform
