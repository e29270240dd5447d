// One registry per process, so each test uses endpoints of its own.
#include "client/plugin/registry.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>

#include "caravan.h"
#include "support/scripted_server.h"

namespace caravan::client {
namespace {

using test::ScriptedServer;
using test::WirePeer;
using wire::Command;

// A stock server with some devices. Sessions stay open until the client closes them.
struct DeviceServer {
    explicit DeviceServer(uint32_t devices)
        : server([devices](WirePeer & peer, Command first) {
              if (first != Command::device_count) {
                  return;
              }
              peer.reply(devices);
              for (uint32_t i = 0; i < 2 * devices; ++i) {
                  peer.next();
                  peer.reply(uint64_t{64});
              }
          }, [](size_t) { return wire::Extension{}; }) {}

    std::string endpoint() const { return server.endpoint().text(); }
    ScriptedServer server;
};

TEST(Registry, EachServerHasOneEntryWithItsDevices) {
    DeviceServer one(2), two(1);
    Registry & registry = Registry::instance();
    const ggml_backend_reg_t first = registry.add_server(one.endpoint().c_str());
    ASSERT_NE(first, nullptr);
    EXPECT_EQ(ggml_backend_reg_name(first), "RPC[" + one.endpoint() + "]");
    ASSERT_EQ(ggml_backend_reg_dev_count(first), 2u);
    EXPECT_EQ(registry.add_server(one.endpoint().c_str()), first);
    EXPECT_EQ(one.server.count(Command::device_count), 1) << "the second time nothing is queried";
    const ggml_backend_reg_t second = registry.add_server(two.endpoint().c_str());
    ASSERT_EQ(ggml_backend_reg_dev_count(second), 1u);
    const std::string name = ggml_backend_dev_name(ggml_backend_reg_dev_get(first, 1));
    const std::string next = ggml_backend_dev_name(ggml_backend_reg_dev_get(second, 0));
    EXPECT_EQ(std::stoi(next.substr(3)), std::stoi(name.substr(3)) + 1) << "names are unique in the process";
    EXPECT_EQ(ggml_backend_dev_backend_reg(ggml_backend_reg_dev_get(second, 0)), registry.main_entry());
}

TEST(Registry, FindsDevicesByIndex) {
    DeviceServer server(2);
    Registry & registry = Registry::instance();
    Device * device = registry.find_device(server.endpoint().c_str(), 1);
    ASSERT_NE(device, nullptr);
    EXPECT_EQ(device->index(), 1u);
    EXPECT_EQ(registry.find_device(server.endpoint().c_str(), 2), nullptr);
    const auto found = registry.find_server(server.endpoint());
    ASSERT_TRUE(found);
    EXPECT_EQ((*found)->devices[1], device);
    EXPECT_EQ(registry.entry_of(**found), registry.add_server(server.endpoint().c_str()));
}

TEST(Registry, FailuresAddNothing) {
    Registry & registry = Registry::instance();
    EXPECT_EQ(registry.try_to_add("a:b:c").error().code, Errc::invalid_argument);
    EXPECT_EQ(registry.try_to_add("unix:/no/such/socket").error().code, Errc::unavailable);
    EXPECT_EQ(registry.find_server("unix:/no/such/socket").error().code, Errc::not_found);
    EXPECT_EQ(registry.add_server("unix:/no/such/socket"), nullptr);
    DeviceServer empty(0);
    EXPECT_EQ(registry.try_to_add(empty.endpoint()).error().code, Errc::not_found);
    EXPECT_FALSE(registry.find_server(empty.endpoint()));
}

TEST(Registry, HasTheFunctionsThatProgramsLookUp) {
    const ggml_backend_reg_t entry = Registry::instance().main_entry();
    EXPECT_STREQ(ggml_backend_reg_name(entry), "RPC");
    EXPECT_NE(ggml_backend_reg_get_proc_address(entry, "ggml_backend_rpc_add_server"), nullptr);
    EXPECT_NE(ggml_backend_reg_get_proc_address(entry, "ggml_backend_rpc_start_server"), nullptr);
    EXPECT_EQ(ggml_backend_reg_get_proc_address(entry, "caravan_api_v0"), nullptr);
    const auto * api = static_cast<const caravan_api_v1 *>(ggml_backend_reg_get_proc_address(entry, CARAVAN_API_V1));
    ASSERT_NE(api, nullptr);
    EXPECT_EQ(api->size, sizeof *api);
}

struct ServersOfTheEnvironment : testing::Test {
    void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

TEST_F(ServersOfTheEnvironment, AreDevicesOfTheMainEntry) {
    EXPECT_EXIT(
        {
            ::alarm(30);
            DeviceServer server(2);
            ::setenv("GGML_RPC_SERVERS", ("," + server.endpoint()).c_str(), 1);
            Registry & registry = Registry::instance();
            const size_t count = ggml_backend_reg_dev_count(registry.main_entry());
            const auto before = registry.find_server(server.endpoint());
            const bool is_main = registry.entry_of(**before) == registry.main_entry();
            const ggml_backend_reg_t entry = registry.add_server(server.endpoint().c_str());
            std::fprintf(stderr, "%zu devices; main %d; added again: %zu devices\n", count, is_main,
                         ggml_backend_reg_dev_count(entry));
            ::_exit(0);
        },
        testing::ExitedWithCode(0), "2 devices; main 1; added again: 0 devices");
}

}  // namespace
}  // namespace caravan::client
