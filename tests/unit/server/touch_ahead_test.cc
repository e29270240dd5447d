#include "server/graph/touch_ahead.h"

#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <vector>

#include "base/clock.h"
#include "server/graph/buffer_table.h"
#include "tunables/session.h"

namespace caravan::server {
namespace {

constexpr size_t size = 64 << 20;

struct Pages {
    Pages() : memory(static_cast<std::byte *>(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
                                                     -1, 0)), size) {}
    ~Pages() { ::munmap(memory.data(), size); }

    size_t resident(size_t begin, size_t end) const {
        const auto page = static_cast<size_t>(::sysconf(_SC_PAGESIZE));
        std::vector<unsigned char> is_there((end - begin) / page);
        EXPECT_EQ(::mincore(memory.data() + begin, end - begin, is_there.data()), 0);
        return static_cast<size_t>(std::ranges::count_if(is_there, [](unsigned char c) { return (c & 1) != 0; })) * page;
    }
    MutableBytes memory;
};

bool eventually(const std::function<bool()> & condition) {
    const TimePoint end = Clock::now() + seconds(20);
    while (!condition() && Clock::now() < end) {
        std::this_thread::sleep_for(milliseconds(5));
    }
    return condition();
}

TEST(TouchAhead, MakesExpectedPagesResidentUnchanged) {
    const Pages pages;
    pages.memory[5 << 20] = std::byte{7};
    TouchAhead ahead;
    ahead.expect(pages.memory.subspan(4 << 20, 4 << 20));
    ahead.expect(pages.memory.subspan(8 << 20, 4 << 20));  // adjacent: extends the request
    if (!eventually([&] { return pages.resident(4 << 20, 12 << 20) == 8 << 20; })) {
        GTEST_SKIP() << "the kernel may lack MADV_POPULATE_WRITE: "
                     << pages.resident(4 << 20, 12 << 20) << " bytes are resident";
    }
    EXPECT_EQ(pages.resident(0, 4 << 20) + pages.resident(12 << 20, size), 0u);
    EXPECT_EQ(pages.memory[5 << 20], std::byte{7});
    ahead.expect(pages.memory);
    ahead.stop();
    const size_t then = pages.resident(0, size);
    std::this_thread::sleep_for(milliseconds(50));
    EXPECT_EQ(pages.resident(0, size), then);
}

TEST(TouchAhead, TouchesBoundedDistanceAhead) {
    const auto type = ggml_backend_cpu_buffer_type();
    BufferTable table;
    const auto address = table.allocate(type, 0, 512 << 20);
    ASSERT_TRUE(address);
    BufferTable::Buffer & buffer = *table.find(*address);
    table.expect_write(buffer, 0, 1000);  // below min_touched_write
    EXPECT_EQ(buffer.touched, 0u);
    table.expect_write(buffer, 10 << 20, 4 << 20);
    EXPECT_EQ(buffer.touched, (14 << 20) + tunable::max_touched_ahead);
    table.expect_write(buffer, 500 << 20, 12 << 20);
    EXPECT_EQ(buffer.touched, 512u << 20);
    EXPECT_TRUE(table.free(*address));
}

}  // namespace
}  // namespace caravan::server
