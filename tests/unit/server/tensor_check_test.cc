#include "server/graph/tensor_check.h"

#include <gtest/gtest.h>

#include "support/cpu_device.h"
#include "support/wire_tensor.h"

namespace caravan::server {
namespace {

using test::f32_tensor;
using test::Shape;
using test::wire_tensor;

class TensorCheck : public testing::Test {
protected:
    static constexpr uint64_t size = 4096;
    TensorCheck() : buffer(table.allocate(test::cpu_devices().buffer_type(0), 0, size).value()) {}
    wire::Tensor f32(Shape ne, uint64_t offset = 0) { return f32_tensor(1, ne, buffer, buffer + offset); }

    BufferTable table;
    uint64_t buffer;
};

// Compares with ggml's arithmetic for all types and common layouts.
TEST_F(TensorCheck, BytesMatchGgml) {
    const std::unique_ptr<ggml_context, void (*)(ggml_context *)> context(
        ggml_init({.mem_size = 1 << 20, .mem_buffer = nullptr, .no_alloc = true}), ggml_free);
    for (int t = 0; t < GGML_TYPE_COUNT; ++t) {
        const auto type = static_cast<ggml_type>(t);
        if (ggml_blck_size(type) == 0) {
            continue;
        }
        ggml_tensor * whole = ggml_new_tensor_4d(context.get(), type, 512, 5, 3, 2);
        for (const ggml_tensor * tensor :
             {whole, ggml_permute(context.get(), whole, 0, 2, 1, 3), ggml_permute(context.get(), whole, 0, 3, 2, 1),
              ggml_view_3d(context.get(), whole, 256, 2, 2, whole->nb[2], whole->nb[3], 0)}) {
            wire::Tensor wired = wire_tensor(1, type, {1, 1, 1, 1}, 0, 0);
            for (int i = 0; i < 4; ++i) {
                wired.ne[i] = static_cast<uint32_t>(tensor->ne[i]);
                wired.nb[i] = static_cast<uint32_t>(tensor->nb[i]);
            }
            const auto bytes = checked_bytes(wired);
            ASSERT_TRUE(bytes) << ggml_type_name(type) << ": " << bytes.error().text;
            EXPECT_EQ(*bytes, ggml_nbytes(tensor)) << ggml_type_name(type);
        }
    }
}

TEST_F(TensorCheck, RefusesUnknownAndRemovedTypes) {
    for (const uint32_t type :
         {4u, 5u, 31u, 32u, 33u, 36u, 37u, 38u, uint32_t{GGML_TYPE_COUNT}, 255u, 0x7fffffffu, 0x80000000u, UINT32_MAX}) {
        wire::Tensor tensor = f32({4, 1, 1, 1});
        tensor.type = type;
        const auto bytes = checked_bytes(tensor);
        ASSERT_FALSE(bytes) << type;
        EXPECT_EQ(bytes.error().code, Errc::invalid_argument);
        EXPECT_FALSE(checked_tensor(tensor, table));
        EXPECT_FALSE(checked_region(tensor, 0, 1, table));
    }
}

TEST_F(TensorCheck, RefusesRowsOfPartialBlocks) {
    for (const uint32_t ne0 : {1u, 31u, 33u, UINT32_MAX}) {
        wire::Tensor tensor = wire_tensor(1, GGML_TYPE_Q8_0, {32, 1, 1, 1}, buffer, buffer);
        tensor.ne[0] = ne0;
        EXPECT_FALSE(checked_bytes(tensor)) << ne0;
    }
}

TEST_F(TensorCheck, RefusesShapesThatOverflow) {
    for (const Shape & ne : {Shape{UINT32_MAX, UINT32_MAX, UINT32_MAX, UINT32_MAX}, {1u << 31, 1u << 31, 4, 1},
                             {1u << 16, 1u << 16, 1u << 16, 1u << 16}, {UINT32_MAX, UINT32_MAX, 1, 1},
                             {1u << 31, 1u << 31, 1, 1}}) {
        wire::Tensor tensor = f32({1, 1, 1, 1});
        for (int i = 0; i < 4; ++i) {
            tensor.ne[i] = ne[i];
            tensor.nb[i] = 0;  // so that the bytes alone would fit
        }
        EXPECT_FALSE(checked_bytes(tensor));
        for (int i = 0; i < 4; ++i) {
            tensor.nb[i] = UINT32_MAX;
        }
        EXPECT_FALSE(checked_bytes(tensor));
    }
}

// Each 64-bit shape exceeds one bound only.
TEST_F(TensorCheck, RefusesSizesBeyondGgmlsRange) {
    const auto region = [](std::array<uint64_t, 4> ne, std::array<uint64_t, 4> nb) {
        wire::Region out;
        out.type = GGML_TYPE_F32;
        std::ranges::copy(ne, out.ne);
        std::ranges::copy(nb, out.nb);
        return out;
    };
    constexpr uint64_t one = 1;
    EXPECT_TRUE(checked_bytes(region({one << 30, 1, 1, 1}, {4, 0, 0, 0})));
    EXPECT_FALSE(checked_bytes(region({0, one << 63, 1, 1}, {4, 0, 0, 0}))) << "an extent that would be negative";
    EXPECT_FALSE(checked_bytes(region({one << 30, one << 29, 1, 1}, {4, 0, 0, 0}))) << "elements, in few bytes";
    EXPECT_FALSE(checked_bytes(region({one << 30, one << 30, one << 30, one << 30}, {4, 0, 0, 0}))) << "elements, overflow";
    EXPECT_FALSE(checked_bytes(region({2, 1, 1, 1}, {max_buffer_size - 3, 0, 0, 0}))) << "bytes";
    EXPECT_TRUE(checked_bytes(region({2, 1, 1, 1}, {max_buffer_size - 4, 0, 0, 0})));
}

TEST_F(TensorCheck, RefusesStridesBeyondBuffer) {
    for (int i = 0; i < 4; ++i) {
        wire::Tensor tensor = f32({2, 2, 2, 2});
        tensor.nb[i] = UINT32_MAX;
        EXPECT_FALSE(checked_tensor(tensor, table)) << i;
    }
    wire::Tensor fits = f32({2, 2, 1, 1});
    fits.nb[1] = size - 8;
    EXPECT_TRUE(checked_tensor(fits, table));
    fits.nb[1] = size - 7;
    EXPECT_FALSE(checked_tensor(fits, table));
}

TEST_F(TensorCheck, EmptyShapesHaveNoBytes) {
    for (int i = 0; i < 4; ++i) {
        wire::Tensor tensor = f32({4, 1, 1, 1});
        tensor.ne[i] = 0;
        ASSERT_EQ(checked_bytes(tensor).value(), 0u);
        for (const uint64_t offset : {uint64_t{0}, uint64_t{1}, size, UINT64_MAX}) {
            const auto region = checked_region(tensor, offset, 0, table);
            ASSERT_TRUE(region) << offset;
            EXPECT_EQ(region->region.data(), table.find(buffer)->base);
            EXPECT_FALSE(checked_region(tensor, offset, 1, table)) << offset;
        }
        EXPECT_FALSE(checked_region(tensor, 1, UINT64_MAX, table));
    }
}

// ggml computes the address of an empty view like any other's, and back-ends calculate with it.
TEST_F(TensorCheck, EmptyTensorsAreClampedToTheirBuffer) {
    std::byte * const base = table.find(buffer)->base;
    for (const auto & [offset, expected] : {std::pair<uint64_t, uint64_t>{64, 64}, {size, size}, {size + 1, size},
                                            {10 * size, size}, {uint64_t{0} - 4, 0}}) {
        const auto tensor = checked_tensor(f32({0, 3, 1, 1}, offset), table);
        ASSERT_TRUE(tensor) << offset << ": " << tensor.error().text;
        EXPECT_EQ(tensor->data, base + expected) << offset;
        EXPECT_TRUE(checked_region(f32({0, 3, 1, 1}, offset), 0, 0, table)) << offset;
    }
    wire::Tensor unplaced_tensor = f32({0, 3, 1, 1}, 64);
    unplaced_tensor.buffer = 0;
    const auto unplaced = checked_tensor(unplaced_tensor, table);
    ASSERT_TRUE(unplaced);
    EXPECT_EQ(unplaced->data, nullptr);
    unplaced_tensor.buffer = 77;
    EXPECT_EQ(checked_tensor(unplaced_tensor, table).error().code, Errc::not_found);
}

// Kernels assert that the strides of a source match its shape, even if it is empty.
TEST_F(TensorCheck, EmptyTensorsGetStridesOfTheirShape) {
    for (const Shape & shape : {Shape{0, 4, 1, 1}, Shape{4, 0, 2, 1}, Shape{4, 2, 0, 3}, Shape{0, 0, 0, 0}}) {
        wire::Tensor wired = f32(shape);
        for (int i = 0; i < 4; ++i) {
            wired.nb[i] = 1 + 1000u * static_cast<uint32_t>(i);
        }
        const auto checked = checked_tensor(wired, table);
        ASSERT_TRUE(checked) << checked.error().text;
        EXPECT_TRUE(ggml_is_contiguous(&*checked));
        EXPECT_EQ(checked->nb[0], sizeof(float));
        EXPECT_EQ(ggml_nbytes(&*checked), 0u);
    }
}

TEST_F(TensorCheck, DataMustLieInNamedBuffer) {
    EXPECT_TRUE(checked_tensor(f32({1024, 1, 1, 1}), table));
    EXPECT_TRUE(checked_tensor(f32({1, 1, 1, 1}, size - 4), table));
    for (const uint64_t offset : {size - 3, size, size + 1, uint64_t{0} - 1, uint64_t{0} - 4, uint64_t{1} << offset_bits}) {
        EXPECT_FALSE(checked_tensor(f32({1, 1, 1, 1}, offset), table)) << offset;
    }
    EXPECT_FALSE(checked_tensor(f32({1025, 1, 1, 1}), table));
    wire::Tensor tensor = f32({1, 1, 1, 1});
    tensor.data = 0;
    EXPECT_FALSE(checked_tensor(tensor, table));
    tensor.data = reinterpret_cast<uint64_t>(table.find(buffer)->base);
    EXPECT_FALSE(checked_tensor(tensor, table)) << "an address of the server process";
}

TEST_F(TensorCheck, NoBufferMeansNoData) {
    wire::Tensor tensor = f32({4, 1, 1, 1});
    tensor.buffer = 0;
    EXPECT_FALSE(checked_tensor(tensor, table)) << "CVE-2026-34159";
    tensor.data = 0;
    const auto unplaced = checked_tensor(tensor, table);
    ASSERT_TRUE(unplaced);
    EXPECT_EQ(unplaced->data, nullptr);
    EXPECT_EQ(unplaced->buffer, nullptr);
    EXPECT_FALSE(checked_region(tensor, 0, 4, table));
    EXPECT_FALSE(checked_region(tensor, 0, 0, table));
}

TEST_F(TensorCheck, RefusesUnknownAndFreedBuffers) {
    wire::Tensor tensor = f32({4, 1, 1, 1});
    tensor.buffer = buffer + 1;
    EXPECT_FALSE(checked_tensor(tensor, table));
    tensor.buffer = 77;
    EXPECT_EQ(checked_tensor(tensor, table).error().code, Errc::not_found);
    tensor.buffer = buffer;
    table.free(buffer);
    EXPECT_FALSE(checked_tensor(tensor, table));
}

TEST_F(TensorCheck, RegionsMustLieInsideTensor) {
    const wire::Tensor tensor = f32({4, 1, 1, 1}, 64);
    // Zero bytes fit at the end.
    for (const auto & [offset, count] : {std::pair<uint64_t, uint64_t>{0, 16}, {0, 0}, {15, 1}, {16, 0}, {4, 8}}) {
        const auto region = checked_region(tensor, offset, count, table);
        ASSERT_TRUE(region) << offset << ' ' << count;
        EXPECT_EQ(region->region.data(), table.find(buffer)->base + 64 + offset);
        EXPECT_EQ(region->tensor_bytes, 16u);
    }
    for (const auto & [offset, count] :
         {std::pair<uint64_t, uint64_t>{0, 17}, {16, 1}, {17, 1}, {1, 16}, {UINT64_MAX, 1}, {1, UINT64_MAX},
          {UINT64_MAX, UINT64_MAX}, {UINT64_MAX - 15, 32}}) {
        EXPECT_FALSE(checked_region(tensor, offset, count, table)) << offset << ' ' << count;
    }
}

// ggml makes no strides smaller than an element. A kernel that walks a row by element size would leave the checked bytes.
TEST_F(TensorCheck, RefusesOverlappingElements) {
    for (const uint32_t stride : {0u, 1u, 3u}) {
        wire::Tensor tensor = f32({1024, 1, 1, 1}, size - 1024 * 3 - 16);
        tensor.nb[0] = stride;
        EXPECT_FALSE(checked_tensor(tensor, table)) << stride;
    }
    wire::Tensor blocks = wire_tensor(1, GGML_TYPE_Q8_0, {64, 1, 1, 1}, buffer, buffer);
    blocks.nb[0] = 33;
    EXPECT_FALSE(checked_tensor(blocks, table));
}

// Tensors in a payload are not aligned.
TEST_F(TensorCheck, AcceptsUnalignedTensors) {
    const wire::Tensor good = f32({4, 2, 1, 1});
    std::vector<std::byte> memory(sizeof good + 8);
    for (size_t at = 0; at < 8; ++at) {
        std::memcpy(memory.data() + at, &good, sizeof good);
        const auto & tensor = *reinterpret_cast<const wire::Tensor *>(memory.data() + at);
        EXPECT_EQ(checked_bytes(tensor).value(), 32u);
        EXPECT_TRUE(checked_region(tensor, 0, 32, table));
    }
}

TEST_F(TensorCheck, NamesArePrintable) {
    wire::GraphTensor tensor{};
    std::memcpy(tensor.name, "a\x1b[31m\n\xff", 8);
    EXPECT_EQ(printable_name(tensor), "a?[31m??");
    std::memset(tensor.name, 'x', sizeof tensor.name);
    EXPECT_EQ(printable_name(tensor), std::string(64, 'x'));
}

}  // namespace
}  // namespace caravan::server
