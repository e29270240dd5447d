// A worker process, whose supervisor is the test.
#include "server/worker/worker.h"

#include <gtest/gtest.h>
#include <sys/socket.h>
#include <sys/wait.h>

#include "server/ipc/control.h"
#include "support/wire_peer.h"

namespace caravan::server {
namespace {

using Kind = ControlMessage::Kind;

class WorkerTest : public testing::Test {
protected:
    void start(const WorkerOptions & options) {
        auto channel = make_control_channel();
        ASSERT_TRUE(channel);
        control = std::move(channel->supervisor);
        net::set_non_blocking(control.get(), false);
        const timeval limit{test::patience.count(), 0};
        ::setsockopt(control.get(), SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit);
        pid = ::fork();
        if (pid == 0) {
            ::_exit(run_worker(channel->worker.get(), options));
        }
    }
    ~WorkerTest() override {
        if (pid > 0) {
            ::kill(pid, SIGKILL);
            ::waitpid(pid, nullptr, 0);
        }
    }
    ControlMessage receive() {
        const auto received = receive_control(control.get(), Descriptors::refuse);
        EXPECT_TRUE(received && *received);
        return received && *received ? (*received)->message : ControlMessage{.kind = Kind::contend};
    }
    int exit_status() {
        int status = -1;
        ::waitpid(std::exchange(pid, -1), &status, 0);
        return status;
    }

    UniqueFd control;
    pid_t pid = -1;
};

TEST_F(WorkerTest, ReportsAnUnknownDeviceAndEnds) {
    start({.devices = {"no such device"}});
    const ControlMessage failed = receive();
    EXPECT_EQ(failed.kind, Kind::failed);
    EXPECT_TRUE(std::string_view(failed.text).contains("no device named \"no such device\"")) << failed.text;
    EXPECT_TRUE(std::string_view(failed.text).contains("CPU")) << "names those that exist: " << failed.text;
    EXPECT_EQ(WEXITSTATUS(exit_status()), EXIT_FAILURE);
}

TEST_F(WorkerTest, ReportsItsFactsAndAnswersQueriesUntilTheSupervisorExits) {
    start({.devices = {"CPU"}, .confined = false});
    EXPECT_EQ(receive().kind, Kind::cache);
    const ControlMessage confined = receive();
    EXPECT_EQ(confined.kind, Kind::confined);
    EXPECT_STREQ(confined.text, "none (--no-confinement)");
    const ControlMessage device = receive();
    ASSERT_EQ(device.kind, Kind::device);
    EXPECT_EQ(device.count, 1u);
    EXPECT_EQ(device.is_cpu, 1u);
    EXPECT_TRUE(std::string_view(device.text).starts_with("CPU: ")) << device.text;
    EXPECT_EQ(receive().kind, Kind::ready);

    ASSERT_TRUE(send_control(control.get(), {.kind = Kind::memory, .number = 7}));  // no such device: no reply
    ASSERT_TRUE(send_control(control.get(), {.kind = Kind::memory, .number = 0, .memory_free = 1 << 20}));
    const ControlMessage memory = receive();
    EXPECT_EQ(memory.kind, Kind::memory);
    EXPECT_EQ(memory.number, 0u);
    EXPECT_LE(memory.memory_free, uint64_t{1} << 20) << "not more than the supervisor has";
    EXPECT_EQ(memory.memory_total, device.memory_total);

    control.reset();
    EXPECT_EQ(exit_status(), 0);
}

}  // namespace
}  // namespace caravan::server
