#include "server/graph/device_queue.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <memory>

#include "support/cpu_device.h"

namespace caravan::server {
namespace {

// A CPU back-end, and a graph that doubles `source`, which takes about a millisecond.
struct QueuedGraph {
    static constexpr int64_t count = 1'000'000;

    QueuedGraph() {
        (void)test::cpu_devices();  // loads the back-ends
        backend.reset(ggml_backend_dev_init(ggml_backend_dev_by_name("CPU"), nullptr));
        context.reset(ggml_init({.mem_size = 16 << 20, .mem_buffer = nullptr, .no_alloc = false}));
        source = ggml_new_tensor_1d(context.get(), GGML_TYPE_F32, count);
        result = ggml_scale(context.get(), source, 2);
        graph = ggml_new_graph(context.get());
        ggml_build_forward_expand(graph, result);
    }
    void fill(float value) { std::fill_n(static_cast<float *>(source->data), count, value); }
    float last() const { return static_cast<const float *>(result->data)[count - 1]; }

    std::unique_ptr<ggml_backend, void (*)(ggml_backend_t)> backend{nullptr, ggml_backend_free};
    std::unique_ptr<ggml_context, void (*)(ggml_context *)> context{nullptr, ggml_free};
    ggml_tensor *source = nullptr, *result = nullptr;
    ggml_cgraph * graph = nullptr;
};

TEST(DeviceQueue, ComputesOneGraphAfterTheOther) {
    QueuedGraph queued;
    DeviceQueue queue(queued.backend.get());
    TimePoint previous_end{};
    for (int round = 1; round <= 20; ++round) {
        queued.fill(static_cast<float>(round));
        const TimePoint before = Clock::now();
        queue.start(queued.graph);
        const server::Run run = queue.finish();
        EXPECT_EQ(run.status, GGML_STATUS_SUCCESS);
        EXPECT_GE(run.begin, before);
        EXPECT_GE(run.begin, previous_end);
        EXPECT_LE(run.end, Clock::now());
        EXPECT_EQ(queued.last(), static_cast<float>(2 * round));
        previous_end = run.end;
    }
}

TEST(DeviceQueue, WaitsBetweenGraphs) {
    QueuedGraph queued;
    DeviceQueue queue(queued.backend.get());
    for (int round = 1; round <= 3; ++round) {
        const TimePoint before = Clock::now();
        queue.await();
        const server::Run waited = queue.finish();
        EXPECT_EQ(waited.status, GGML_STATUS_SUCCESS);
        EXPECT_GE(waited.end, before);
        EXPECT_LE(waited.end, Clock::now());
        queued.fill(static_cast<float>(round));
        queue.start(queued.graph);
        queue.finish();
        EXPECT_EQ(queued.last(), static_cast<float>(2 * round));
    }
}

TEST(DeviceQueue, ReportsAbortedGraphs) {
    QueuedGraph queued;
    const auto set_abort = reinterpret_cast<ggml_backend_set_abort_callback_t>(ggml_backend_reg_get_proc_address(
        ggml_backend_dev_backend_reg(ggml_backend_dev_by_name("CPU")), "ggml_backend_set_abort_callback"));
    ASSERT_NE(set_abort, nullptr);
    set_abort(queued.backend.get(), [](void *) { return true; }, nullptr);
    DeviceQueue queue(queued.backend.get());
    queue.start(queued.graph);
    EXPECT_EQ(queue.finish().status, GGML_STATUS_ABORTED);
}

TEST(DeviceQueue, DestructorWaitsForTheGraph) {
    QueuedGraph queued;
    queued.fill(7);
    {
        DeviceQueue queue(queued.backend.get());
        queue.start(queued.graph);
    }
    EXPECT_EQ(queued.last(), 14.0F);
}

#if !defined(__SANITIZE_ADDRESS__) && !defined(__SANITIZE_THREAD__)  // these need address space of their own
TEST(DeviceQueue, ComputesWithoutAThreadIfNoneCanStart) {
    GTEST_FLAG_SET(death_test_style, "threadsafe");  // without the stacks of earlier threads, which are used again
    EXPECT_EXIT(
        {
            QueuedGraph queued;
            const auto reg = ggml_backend_dev_backend_reg(ggml_backend_get_device(queued.backend.get()));
            const auto set_n_threads = reinterpret_cast<ggml_backend_set_n_threads_t>(
                ggml_backend_reg_get_proc_address(reg, "ggml_backend_set_n_threads"));
            set_n_threads(queued.backend.get(), 1);
            queued.fill(1);
            rlimit no_more{};
            ::setrlimit(RLIMIT_AS, &no_more);
            DeviceQueue queue(queued.backend.get());
            queue.start(queued.graph);
            const server::Run run = queue.finish();
            std::fprintf(stderr, "status %d, %g\n", run.status, static_cast<double>(queued.last()));
            ::_exit(0);
        },
        testing::ExitedWithCode(0), "status 0, 2");
}
#endif

TEST(DeviceQueue, MayBeUnused) {
    QueuedGraph queued;
    const DeviceQueue queue(queued.backend.get());
}

}  // namespace
}  // namespace caravan::server
