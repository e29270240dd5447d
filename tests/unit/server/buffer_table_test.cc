#include "server/graph/buffer_table.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <set>

#include "base/size_text.h"
#include "platform/pages.h"
#include "support/cpu_device.h"

// Tests request more memory than exists. Makes the sanitizers return null as malloc does.
#if defined(__SANITIZE_ADDRESS__)
extern "C" __attribute__((visibility("default"))) const char * __asan_default_options() {
    return "allocator_may_return_null=1";
}
#elif defined(__SANITIZE_THREAD__)
extern "C" __attribute__((visibility("default"))) const char * __tsan_default_options() {
    return "allocator_may_return_null=1";
}
#endif

namespace caravan::server {
namespace {

class BufferTableTest : public testing::Test {
protected:
    Result<uint64_t> allocate(uint64_t size) { return table.allocate(type, 0, size); }
    ggml_backend_buffer_type_t type = test::cpu_devices().buffer_type(0);
    BufferTable table;
};

TEST_F(BufferTableTest, AddressesAreUniqueAndArtificial) {
    std::set<uint64_t> seen;
    for (int i = 0; i < 100; ++i) {
        const auto address = allocate(100);
        ASSERT_TRUE(address);
        EXPECT_NE(*address, 0u);
        EXPECT_LT(*address, uint64_t{1} << 63);
        EXPECT_EQ(*address % (uint64_t{1} << offset_bits), 0u);
        EXPECT_TRUE(seen.insert(*address).second);
        EXPECT_NE(*address, reinterpret_cast<uint64_t>(table.find(*address)->base));
    }
    EXPECT_EQ(table.bytes(), 10'000u);
}

TEST_F(BufferTableTest, OnlyBufferStartIsAHandle) {
    const uint64_t address = allocate(100).value();
    ASSERT_NE(table.find(address), nullptr);
    EXPECT_EQ(table.find(address)->size, 100u);
    for (const uint64_t other : {uint64_t{0}, address + 1, address - 1, uint64_t{1}, UINT64_MAX}) {
        EXPECT_EQ(table.find(other), nullptr);
        EXPECT_FALSE(table.free(other));
    }
}

TEST_F(BufferTableTest, LocateAcceptsOnlyBytesInside) {
    const uint64_t a = allocate(100).value(), b = allocate(100).value();
    for (const auto & [at, size] : {std::pair<uint64_t, uint64_t>{0, 0}, {0, 100}, {99, 1}, {100, 0}, {50, 0}, {50, 50}}) {
        const auto region = table.locate(a, a + at, size);
        ASSERT_TRUE(region) << at << ' ' << size;
        EXPECT_EQ(region->offset, at);
        EXPECT_EQ(region->data(), table.find(a)->base + at);
    }
    for (const auto & [address, size] :
         {std::pair<uint64_t, uint64_t>{a, 101}, {a + 100, 1}, {a - 1, 1}, {b, 1}, {0, 1},
          {a, UINT64_MAX}, {a + 1, UINT64_MAX}, {a + 1, UINT64_MAX - a}, {UINT64_MAX, 1},
          {reinterpret_cast<uint64_t>(table.find(a)->base), 1}}) {
        const auto region = table.locate(a, address, size);
        ASSERT_FALSE(region) << address << ' ' << size;
        EXPECT_EQ(region.error().code, Errc::invalid_argument);
    }
    EXPECT_EQ(table.locate(a + 1, a + 1, 1).error().code, Errc::not_found);
    EXPECT_EQ(table.locate(0, a, 1).error().code, Errc::not_found);
}

TEST_F(BufferTableTest, ZeroBytesLieInside) {
    const uint64_t a = allocate(100).value(), b = allocate(100).value();
    for (const auto & [address, offset] : {std::pair<uint64_t, uint64_t>{a + 100, 100}, {a + 101, 100}, {b, 100},
                                           {UINT64_MAX, 100}, {a - 1, 0}, {0, 0}}) {
        const auto region = table.locate(a, address, 0);
        ASSERT_TRUE(region) << address;
        EXPECT_EQ(region->offset, offset) << address;
    }
    EXPECT_EQ(table.locate(a + 1, a + 1, 0).error().code, Errc::not_found);
}

TEST_F(BufferTableTest, FreedBufferIsGone) {
    const uint64_t address = allocate(100).value();
    EXPECT_TRUE(table.free(address));
    EXPECT_FALSE(table.free(address));
    EXPECT_EQ(table.find(address), nullptr);
    EXPECT_FALSE(table.locate(address, address, 1));
    EXPECT_EQ(table.bytes(), 0u);
    EXPECT_EQ(table.peak_bytes(), 100u);
}

TEST_F(BufferTableTest, AllocatesEmptyBuffer) {
    const auto address = allocate(0);
    ASSERT_TRUE(address) << address.error().text;
    EXPECT_TRUE(table.locate(*address, *address, 0));
    EXPECT_FALSE(table.locate(*address, *address, 1));
}

TEST_F(BufferTableTest, ImpossibleSizesAreRefused) {
    for (const uint64_t size : {max_buffer_size + 1, uint64_t{1} << 62, uint64_t{1} << 63, UINT64_MAX, UINT64_MAX - 31}) {
        const auto address = allocate(size);
        ASSERT_FALSE(address) << size;
        EXPECT_EQ(address.error().code, Errc::no_memory);
    }
    EXPECT_TRUE(allocate(100)) << "and the session goes on";
    EXPECT_EQ(table.bytes(), 100u);
}

TEST_F(BufferTableTest, RefusesMoreThanMachineMemory) {
    const auto address = allocate(max_buffer_size);
    ASSERT_FALSE(address);
    EXPECT_EQ(address.error().code, Errc::no_memory);
    EXPECT_TRUE(address.error().text.contains(size_text(max_buffer_size))) << address.error().text;
}

// Allocates more buffers in sequence than there are handles. No handle is in use twice.
TEST_F(BufferTableTest, HandlesWrapAround) {
    const uint64_t lasting = allocate(8).value();
    for (int i = 0; i < 40'000; ++i) {
        const auto address = allocate(8);
        ASSERT_TRUE(address);
        ASSERT_NE(*address, lasting);
        ASSERT_NE(*address, 0u);
        ASSERT_TRUE(table.free(*address));
    }
    EXPECT_NE(table.find(lasting), nullptr);
}

TEST_F(BufferTableTest, NumberOfBuffersIsLimited) {
    for (size_t i = 0; i < max_buffers; ++i) {
        ASSERT_TRUE(allocate(1)) << i;
    }
    const auto address = allocate(1);
    ASSERT_FALSE(address);
    EXPECT_EQ(address.error().code, Errc::no_memory);
}

// Clients must not read the process's heap.
TEST_F(BufferTableTest, NewMemoryIsZeroed) {
    for (const size_t size : {64u, 1000u, 4000u, 60'000u, 300'000u, 5'000'000u}) {
        for (int i = 0; i < 3; ++i) {  // the heap reuses freed memory
            std::vector<std::byte> secret(size, std::byte{0x5e});
            EXPECT_EQ(std::ranges::count(secret, std::byte{0x5e}), static_cast<ptrdiff_t>(size));
            secret = {};
            const uint64_t address = allocate(size).value();
            const ConstBytes memory(table.find(address)->base, size);
            ASSERT_TRUE(std::ranges::all_of(memory, [](std::byte b) { return b == std::byte{0}; })) << size;
            std::memset(table.find(address)->base, 0x77, size);
            table.free(address);
        }
    }
}

TEST_F(BufferTableTest, LargeBuffersHaveGuardPages) {
    const uint64_t size = 3'000'000;
    const auto * buffer = table.find(allocate(size).value());
    EXPECT_EQ(reinterpret_cast<uintptr_t>(buffer->base) % page_size(), 0u);
    const auto look = [&](ptrdiff_t at) {
        return test::ask_in_child([&] { return *static_cast<volatile std::byte *>(buffer->base + at) == std::byte{0}; });
    };
    EXPECT_EQ(look(0), test::Outcome::yes);
    EXPECT_EQ(look(static_cast<ptrdiff_t>(size) - 1), test::Outcome::yes);
    EXPECT_EQ(look(-1), test::Outcome::died);
    EXPECT_EQ(look(static_cast<ptrdiff_t>(whole_pages(size + overread_bytes))), test::Outcome::died);
}

}  // namespace
}  // namespace caravan::server
