#include "server/supervisor/open_files.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <functional>

#include "support/cpu_device.h"

namespace caravan::server {
namespace {

// What remains with a hard limit of open files, in a child process.
bool holds_with(rlim_t limit, const std::function<bool(const ServerOptions &, size_t clients)> & check) {
    return test::ask_in_child([&] {
               const rlimit files{limit, limit};
               ServerOptions options{.max_sessions = 16, .max_per_address = 15};
               ::setrlimit(RLIMIT_NOFILE, &files);
               const size_t clients = fit_open_files(options);
               return check(options, clients);
           }) == test::Outcome::yes;
}

TEST(OpenFiles, WorkersMayOpenFewerThanTheSupervisor) {
    EXPECT_TRUE(holds_with(2000, [](const ServerOptions & options, size_t) {
        return options.max_sessions == 16 && options.worker.keep_graphs && options.worker.open_files > 0 &&
               options.worker.open_files + 253 <= 2000;
    }));
}

TEST(OpenFiles, WithoutASpareWorkerSessionsLeaveNoGraphs) {
    EXPECT_EQ(test::ask_in_child([] {
                  ServerOptions options{.max_per_address = 15};
                  options.worker.keep_spare = false;
                  fit_open_files(options);
                  return !options.worker.keep_graphs;
              }),
              test::Outcome::yes);
}

TEST(OpenFiles, ALowLimitReducesSessionsAndClients) {
    EXPECT_TRUE(holds_with(40, [](const ServerOptions & options, size_t clients) {
        return options.max_sessions >= 1 && options.max_sessions < 16 && !options.worker.keep_graphs &&
               options.max_per_address <= options.max_sessions && clients >= 8 && clients < 40;
    }));
}

}  // namespace
}  // namespace caravan::server
