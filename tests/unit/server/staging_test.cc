#include "server/session/staging.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>

#include "ggml.h"
#include "support/byte_strings.h"

namespace caravan::server {
namespace {

constexpr uint64_t piece = tunable::staging_size, capacity = 8 * piece;

// A tensor in host memory stands for one in a device's.
struct StagingTest : testing::Test {
    StagingTest() {
        tensor = ggml_new_tensor_1d(context.get(), GGML_TYPE_I8, capacity);
        buffer.reset(ggml_backend_buft_alloc_buffer(ggml_backend_cpu_buffer_type(), capacity));
        ggml_backend_tensor_alloc(buffer.get(), tensor, ggml_backend_buffer_get_base(buffer.get()));
        std::memset(tensor->data, 0, capacity);
    }
    ConstBytes content(uint64_t offset, uint64_t size) const {
        return {static_cast<const std::byte *>(tensor->data) + offset, size};
    }
    // Fills pieces with the bytes of `data`, at most `most` of them at a time.
    std::function<Result<size_t>(MutableBytes)> source(ConstBytes data, size_t most = SIZE_MAX) {
        return [data, most](MutableBytes to) mutable -> Result<size_t> {
            const size_t length = std::min({to.size(), data.size(), most});
            std::ranges::copy(data.first(length), to.begin());
            data = data.subspan(length);
            return length;
        };
    }

    std::unique_ptr<ggml_context, decltype(&ggml_free)> context{ggml_init({1 << 16, nullptr, true}), ggml_free};
    std::unique_ptr<ggml_backend_buffer, decltype(&ggml_backend_buffer_free)> buffer{nullptr, ggml_backend_buffer_free};
    ggml_tensor * tensor = nullptr;
    Staging staging;
    const std::vector<std::byte> data = test::noise(capacity);
};

TEST_F(StagingTest, WritesAndReadsAnySize) {
    for (const uint64_t size : {uint64_t{0}, uint64_t{1}, piece - 1, piece, piece + 1, 3 * piece, 3 * piece + 7, capacity - 5}) {
        const uint64_t offset = size == 0 ? 0 : 5;
        std::memset(tensor->data, 0, capacity);
        EXPECT_EQ(staging.write(*tensor, offset, size, source(data)), size);
        EXPECT_TRUE(std::ranges::equal(content(offset, size), ConstBytes(data).first(size))) << size;
        std::vector<std::byte> back;
        ASSERT_TRUE(staging.read(*tensor, offset, size, [&](ConstBytes bytes) -> Result<> {
            back.insert(back.end(), bytes.begin(), bytes.end());
            return {};
        }));
        EXPECT_TRUE(std::ranges::equal(back, ConstBytes(data).first(size))) << size;
    }
}

TEST_F(StagingTest, PiecesMayBeFilledInPart) {
    EXPECT_EQ(staging.write(*tensor, 0, 5 * piece, source(data, piece - 3)), 5 * piece);
    EXPECT_TRUE(std::ranges::equal(content(0, 5 * piece), ConstBytes(data).first(5 * piece)));
}

TEST_F(StagingTest, ASourceMayEndEarly) {
    EXPECT_EQ(staging.write(*tensor, 0, 6 * piece, source(ConstBytes(data).first(4 * piece + 9))), 4 * piece + 9);
    EXPECT_TRUE(std::ranges::equal(content(0, 4 * piece + 9), ConstBytes(data).first(4 * piece + 9)));
    EXPECT_EQ(content(4 * piece + 9, 1)[0], std::byte{0});
}

TEST_F(StagingTest, FailuresEndATransferAndTheNextOneWorks) {
    size_t filled = 0;
    const auto written = staging.write(*tensor, 0, 6 * piece, [&](MutableBytes to) -> Result<size_t> {
        if (++filled == 4) {
            return fail(Errc::closed, "gone");
        }
        std::ranges::fill(to, std::byte{7});
        return to.size();
    });
    ASSERT_FALSE(written);
    EXPECT_EQ(written.error().text, "gone");
    EXPECT_EQ(content(3 * piece - 1, 1)[0], std::byte{7}) << "pieces before the failure are written when it returns";
    size_t taken = 0;
    const auto read = staging.read(*tensor, 0, 6 * piece, [&](ConstBytes) -> Result<> {
        if (++taken == 2) {
            return fail(Errc::closed, "gone");
        }
        return {};
    });
    EXPECT_FALSE(read);
    EXPECT_EQ(staging.write(*tensor, 0, capacity, source(data)), capacity);
    EXPECT_TRUE(std::ranges::equal(content(0, capacity), data));
}

TEST_F(StagingTest, OnePieceIsBounded) {
    EXPECT_EQ(staging.piece(10).size(), 10u);
    EXPECT_EQ(staging.piece(100 * piece).size(), piece);
}

}  // namespace
}  // namespace caravan::server
