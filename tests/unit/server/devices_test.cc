#include "server/graph/devices.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <set>
#include <string>

#include "abi/ggml_abi.h"
#include "base/formatted.h"
#include "support/cpu_device.h"
#include "support/fake_gpu.h"

namespace caravan::server {
namespace {

// The CPU device under another name, declared asynchronous like a GPU.
ggml_backend_dev_t asynchronous_cpu() {
    static ggml_backend_device only = *ggml_backend_dev_by_name("CPU");
    static void (*get_props)(ggml_backend_dev_t, ggml_backend_dev_props *) = only.calls.get_props;
    static const bool is_registered = [] {
        only.calls.get_name = [](ggml_backend_dev_t) { return "ASYNC"; };
        only.calls.get_props = [](ggml_backend_dev_t device, ggml_backend_dev_props * props) {
            get_props(device, props);
            props->caps.async = true;
        };
        ggml_backend_device_register(&only);
        return true;
    }();
    (void)is_registered;
    return &only;
}

TEST(Devices, AsynchronousDeviceReportsTimeUntilSynchronized) {
    (void)test::cpu_devices();
    ASSERT_NE(asynchronous_cpu(), nullptr);
    auto devices = Devices::open({"ASYNC"}, 1);
    ASSERT_TRUE(devices) << devices.error().text;
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(
        ggml_init({.mem_size = 1 << 20, .mem_buffer = nullptr, .no_alloc = false}), ggml_free);
    ggml_tensor * ones = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 1000);
    std::memset(ones->data, 0, ggml_nbytes(ones));
    ggml_cgraph * graph = ggml_new_graph(context.get());
    ggml_build_forward_expand(graph, ggml_scale(context.get(), ones, 2));

    EXPECT_EQ(devices->synchronize(0).end, TimePoint()) << "nothing ran";
    const TimePoint before = Clock::now();
    EXPECT_EQ(devices->compute(0, graph), GGML_STATUS_SUCCESS);
    const TimePoint between = Clock::now();
    EXPECT_EQ(devices->compute(0, graph), GGML_STATUS_SUCCESS);
    const server::Run run = devices->synchronize(0);
    EXPECT_GE(run.begin, before);
    EXPECT_LE(run.begin, between) << "of the first launch";
    EXPECT_GE(run.end, between);
    EXPECT_EQ(devices->synchronize(0).end, TimePoint()) << "once";
}

TEST(Devices, BlockingDeviceReportsNoTime) {
    Devices & devices = test::cpu_devices();
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(
        ggml_init({.mem_size = 1 << 20, .mem_buffer = nullptr, .no_alloc = false}), ggml_free);
    ggml_cgraph * graph = ggml_new_graph(context.get());
    ggml_tensor * source = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, 10);
    std::memset(source->data, 0, ggml_nbytes(source));
    ggml_build_forward_expand(graph, ggml_scale(context.get(), source, 2));
    EXPECT_EQ(devices.compute(0, graph), GGML_STATUS_SUCCESS);
    EXPECT_EQ(devices.synchronize(0).end, TimePoint()) << "compute() took the time";
}

// A GPU that both CUDA and Vulkan list has one PCI id. Devices without an id are all distinct, as are those of one back-end.
TEST(Devices, FindsSameHardwareById) {
    EXPECT_EQ(first_with_same_hardware({{"CUDA", "0000:01:00.0"},
                                        {"CUDA", "0000:02:00.0"},
                                        {"CUDA", "0000:01:00.0"},
                                        {"Vulkan", "0000:01:00.0"},
                                        {"Vulkan", ""},
                                        {"CUDA", ""},
                                        {"Vulkan", "0000:02:00.0"},
                                        {"Vulkan", "0000:03:00.0"}}),
              (std::vector<size_t>{0, 1, 2, 0, 4, 5, 1, 7}));
    EXPECT_TRUE(first_with_same_hardware({}).empty());
}

TEST(Devices, GpuOfTwoBackendsIsLentOnce) {
    (void)test::cpu_devices();
    // In a child, whose registry has these GPUs.
    EXPECT_EQ(test::ask_in_child([] {
                  new test::FakeGpu("CUDA0", "CUDA", "0000:01:00.0");
                  new test::FakeGpu("Vulkan0", "Vulkan", "0000:01:00.0");
                  new test::FakeGpu("Vulkan1", "Vulkan", "0000:02:00.0");
                  const auto opened = Devices::open({}, 1);
                  if (!opened) {
                      return false;
                  }
                  std::set<std::string> lent;  // an earlier test of this process may have added GPU0
                  for (uint32_t i = 0; i < opened->count(); ++i) {
                      lent.insert(opened->facts(i).name);
                  }
                  const std::string text = Devices::describe_all();
                  const auto has = [&](const char * name, const char * note) {
                      const auto line = text.substr(std::min(text.find(formatted("  {}: ", name)), text.size()));
                      return line.substr(0, line.find('\n')).ends_with(formatted("free)  [{}]", note));
                  };
                  return lent.contains("CUDA0") && lent.contains("Vulkan1") && !lent.contains("Vulkan0") &&
                         has("CUDA0", "lent by default") && has("Vulkan1", "lent by default") &&
                         has("Vulkan0", "the same device as CUDA0; lent only with -d") &&
                         Devices::duplicates() == "Vulkan0 and CUDA0 are the same device, which is lent once" &&
                         Devices::open({"Vulkan0"}, 1);
              }),
              test::Outcome::yes);
}

}  // namespace
}  // namespace caravan::server
