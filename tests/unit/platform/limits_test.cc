#include "platform/limits.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include "support/ask_in_child.h"

namespace caravan::platform {
namespace {

TEST(OpenFileLimit, IsSetAndBindsThisProcess) {
    EXPECT_EQ(test::ask_in_child([] {
                  const auto before = open_file_limit();
                  if (!before || before->most < 20) {
                      return false;
                  }
                  set_open_file_limit({20, before->most});
                  const auto after = open_file_limit();
                  int descriptor = 0;
                  while (descriptor >= 0 && descriptor < 19) {
                      descriptor = ::dup(0);
                  }
                  return after && after->now == 20 && after->most == before->most && ::dup(0) < 0;
              }),
              test::Outcome::yes);
}

TEST(OpenFileLimit, OfAnotherProcess) {
    const pid_t child = ::fork();
    if (child == 0) {
        for (;;) {
            ::pause();
        }
    }
    set_open_file_limit_of(child, 30);
    rlimit limit{};
    EXPECT_EQ(::prlimit(child, RLIMIT_NOFILE, nullptr, &limit), 0);
    EXPECT_EQ(limit.rlim_cur, 30u);
    EXPECT_EQ(limit.rlim_max, 30u);
    send_signal(child, Signal::kill);
    wait_for(child);
}

}  // namespace
}  // namespace caravan::platform
