// A session whose device is a GPU.
#include <gtest/gtest.h>

#include "support/fake_gpu.h"
#include "support/session_client.h"

namespace caravan::server {
namespace {

using test::NativeClient;
using wire::NativeCommand;

// Slots 0 and 1 have vectors, slot 2 their sum, which graph 0 computes.
struct GpuSession : testing::Test {
    GpuSession() {
        client.declare(0, client.buffer);
        client.declare(1, client.buffer + 64);
        client.declare(2, client.buffer + 128);
        write(1);
        client.graph(0, client.sum());
        client.read(2);
        test::fake_gpu().waits = 0;
    }
    void write(float value) {
        client.write(0, {value, value, value, value});
        client.write(1, {10, 20, 30, 40});
    }
    void launch() { client.post(NativeCommand::launch, wire::LaunchRequest{0}); }

    Devices devices = test::open_with_gpu({"GPU0"});
    NativeClient client{devices};
};

TEST_F(GpuSession, ReadAfterALaunchWaitsOnce) {
    for (int token = 1; token <= 3; ++token) {
        const auto value = static_cast<float>(token);
        write(value);
        launch();
        EXPECT_EQ(client.read(2), (std::vector<float>{value + 10, value + 20, value + 30, value + 40}));
        EXPECT_EQ(test::fake_gpu().waits, token);
    }
}

TEST_F(GpuSession, ReadWithoutALaunchWaitsForItsBytesOnly) {
    EXPECT_EQ(client.read(1), (std::vector<float>{10, 20, 30, 40}));
    EXPECT_EQ(test::fake_gpu().waits, 1);
}

TEST_F(GpuSession, WriteAfterALaunchWaitsForIt) {
    write(1);
    launch();
    write(2);
    EXPECT_EQ(client.read(2), (std::vector<float>{11, 21, 31, 41}));
    EXPECT_EQ(test::fake_gpu().waits, 2);
}

}  // namespace
}  // namespace caravan::server
