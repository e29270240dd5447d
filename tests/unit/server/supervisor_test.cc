#include "server/supervisor/supervisor.h"

#include <gtest/gtest.h>

#include "net/socket.h"
#include "support/cpu_device.h"

namespace caravan::server {
namespace {

// In a child process, since signal handlers stay. A port in use is reported before a worker loads its devices.
TEST(Supervisor, PortInUseIsAnErrorBeforeDevicesLoad) {
    auto taken = net::bind_to("127.0.0.1", 0);
    ASSERT_TRUE(taken && net::start_listening(*taken));
    const uint16_t port = taken->front().endpoint.port;
    EXPECT_EQ(test::ask_in_child([&] {
                  const auto program = WorkerProgram::open();
                  if (!program) {
                      return false;
                  }
                  ServerOptions options{.port = port};
                  options.worker.devices = {"no such device"};
                  const auto served = run_supervisor(options, *program);
                  return !served && served.error().text.contains(std::to_string(port)) &&
                         !served.error().text.contains("no such device");
              }),
              test::Outcome::yes);
}

TEST(Supervisor, FailureOfTheFirstWorkerIsItsError) {
    EXPECT_EQ(test::ask_in_child([&] {
                  const auto program = WorkerProgram::open();
                  if (!program) {
                      return false;
                  }
                  ServerOptions options{.port = 0};
                  options.worker.devices = {"no such device"};
                  const auto served = run_supervisor(options, *program);
                  return !served && served.error().text.starts_with("no device named \"no such device\"");
              }),
              test::Outcome::yes);
}

}  // namespace
}  // namespace caravan::server
