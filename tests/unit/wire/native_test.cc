// The difference coding of graphs.
#include "wire/native.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>

#include "support/byte_strings.h"

namespace caravan::wire {
namespace {

using Tensors = std::vector<GraphTensor>;

bool equal(const Tensors & left, const Tensors & right) {
    return std::ranges::equal(std::as_bytes(std::span(left)), std::as_bytes(std::span(right)));
}

std::vector<std::byte> difference(const Tensors & base, const Tensors & tensors) {
    std::vector<std::byte> out;
    encode_difference(base, tensors, out);
    return out;
}

// About a quarter of its words are not 0.
GraphTensor random_tensor(std::mt19937 & random) {
    std::array<uint64_t, sizeof(GraphTensor) / 8> words{};
    for (uint64_t & word : words) {
        word = random() % 4 == 0 ? uint64_t{random()} << 32 | random() : 0;
    }
    return std::bit_cast<GraphTensor>(words);
}

TEST(Difference, DecodesToTheEncodedTensors) {
    std::mt19937 random(7);
    for (int round = 0; round < 300; ++round) {
        Tensors base(random() % 20), tensors(random() % 20);
        for (GraphTensor & tensor : base) {
            tensor = random_tensor(random);
        }
        for (size_t i = 0; i < tensors.size(); ++i) {
            tensors[i] = i < base.size() && random() % 3 != 0 ? base[i] : random_tensor(random);
            tensors[i].address += random() % 5 == 0 ? 64 : 0;
        }
        const auto decoded = decode_difference(base, static_cast<uint32_t>(tensors.size()), difference(base, tensors));
        ASSERT_TRUE(decoded) << decoded.error().text;
        EXPECT_TRUE(equal(*decoded, tensors)) << round;
    }
}

TEST(Difference, OfEqualGraphsIsEmpty) {
    std::mt19937 random(7);
    const Tensors tensors(100, random_tensor(random));
    EXPECT_TRUE(difference(tensors, tensors).empty());
    Tensors changed = tensors;
    changed[70].ne[1] += 256;
    EXPECT_EQ(difference(tensors, changed).size(), 4u + 8 + 8);
}

TEST(Difference, RejectsMoreTensorsThanItsBytesCanDescribe) {
    EXPECT_FALSE(decode_difference({}, 1, {}));
    EXPECT_FALSE(decode_difference({}, max_graph_tensors, test::noise(120)));
    EXPECT_FALSE(decode_difference(Tensors(5), UINT32_MAX, test::noise(120)));
    EXPECT_TRUE(decode_difference(Tensors(5), 5, {}));
    // 12 bytes describe a tensor of zeros, but a graph may not have as many.
    const std::vector<std::byte> zeros(12 * (max_graph_tensors + 1));
    EXPECT_FALSE(decode_difference({}, max_graph_tensors + 1, zeros));
    EXPECT_EQ(decode_difference(Tensors(5), 3, {})->size(), 3u);
}

TEST(Difference, MalformedInputIsRejectedOrHarmless) {
    std::mt19937 random(3);
    const Tensors base(8, random_tensor(random));
    Tensors tensors = base;
    tensors.resize(12, random_tensor(random));
    tensors[2].op = 77;
    const auto good = difference(base, tensors);
    for (size_t cut = 0; cut < good.size(); ++cut) {
        // An exact-sized allocation, so that AddressSanitizer detects a read beyond its end.
        (void)decode_difference(base, 12, std::vector(good.begin(), good.begin() + static_cast<ptrdiff_t>(cut)));
    }
    EXPECT_FALSE(decode_difference(base, 12, ConstBytes(good).first(good.size() - 1)));
    std::vector<std::byte> beyond(sizeof(uint32_t) + 2 * sizeof(uint64_t));
    store(beyond.data() + sizeof(uint32_t), uint64_t{1} << (sizeof(GraphTensor) / sizeof(uint64_t)));
    EXPECT_FALSE(decode_difference(base, 8, beyond)) << "a word beyond the last one";
    for (int round = 0; round < 20000; ++round) {
        auto bad = good;
        bad[random() % bad.size()] = static_cast<std::byte>(random());
        if (const auto decoded = decode_difference(base, 12, bad)) {
            EXPECT_EQ(decoded->size(), 12u);
        }
    }
}

struct Expected {
    int command;
    uint64_t low, high;
};

TEST(NativeCommands, MatchTheProtocolTable) {
    constexpr uint64_t any = UINT64_MAX, difference = 64 << 20;
    constexpr Expected table[] = {
        {64, 78, 78},          {65, 11, any}, {66, 18, 18}, {67, 19, 19},    {68, 4, 4},  {69, 12, difference}, {70, 2, 2},
        {71, 8, difference},   {72, 50, 50},  {73, 0, 0},   {74, 10, 1034},  {75, 4, 4},  {76, 10, 10},         {77, 2, 2},
        {78, 0, 0},            {79, 0, 0},    {80, 0, 0},   {81, 6, 166},    {82, 7, 37},   {83, 114, 114}, {84, 10, 10},
    };
    static_assert(std::size(table) == n_native_commands);
    for (const auto & [command, low, high] : table) {
        const PayloadBounds bounds = payload_bounds(static_cast<NativeCommand>(command));
        EXPECT_EQ(bounds.low, low) << command;
        EXPECT_EQ(bounds.high, high) << command;
    }
    EXPECT_EQ(sizeof(SessionFacts), 32u);
    EXPECT_EQ(sizeof(SpansReply), 4u + 4096 * 17);
}

TEST(NativeCommands, HaveBoundsAndNames) {
    for (int i = 0; i < 256; ++i) {
        const auto command = static_cast<Command>(i);
        const PayloadBounds bounds = payload_bounds(static_cast<NativeCommand>(i));
        EXPECT_EQ(is_native(command), bounds.low <= bounds.high) << i;
        EXPECT_EQ(is_native(command), command_name(static_cast<NativeCommand>(i)) != std::string_view("unknown command"));
        if (is_native(command)) {
            EXPECT_GT(payload_bounds(command).low, payload_bounds(command).high) << "also a stock command";
        }
    }
}

}  // namespace
}  // namespace caravan::wire
