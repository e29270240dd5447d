#include "client/session/idle_writes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>
#include <random>

#include "support/wire_peer.h"

namespace caravan::client {
namespace {

using test::noise;

wire::Region stamped(uint64_t id) {
    wire::Region region{};
    region.address = id;
    return region;
}

Footprint touching(Ranges ranges) { return {std::move(ranges), {}}; }

bool hold(IdleWrites & writes, Range range, uint32_t seed = 1) {
    return writes.hold(range, stamped(seed), seed, noise(range.end - range.begin, seed));
}

TEST(Ranges, NormalizeSortsAndMerges) {
    Ranges ranges{{30, 40}, {0, 10}, {5, 7}, {10, 12}, {38, 50}, {0, 3}};
    normalize(ranges);
    EXPECT_EQ(ranges, (Ranges{{0, 12}, {30, 50}}));
    Ranges none;
    normalize(none);
    EXPECT_TRUE(none.empty());
}

TEST(Ranges, TouchesAgreesWithBytewiseCheck) {
    std::mt19937 random(4);
    for (int round = 0; round < 3000; ++round) {
        std::array<bool, 64> marked{};
        Ranges ranges;
        for (unsigned i = random() % 6; i > 0; --i) {
            const uint64_t begin = random() % 60, end = begin + 1 + random() % 4;
            ranges.push_back({begin, end});
            std::fill(marked.begin() + begin, marked.begin() + end, true);
        }
        normalize(ranges);
        const uint64_t begin = random() % 60, end = begin + 1 + random() % 4;
        EXPECT_EQ(touches(ranges, {begin, end}), std::any_of(marked.begin() + begin, marked.begin() + end, std::identity{}));
    }
}

TEST(Ranges, WithoutAgreesWithBytewiseCheck) {
    std::mt19937 random(5);
    const auto some = [&] {
        Ranges out;
        for (unsigned i = random() % 6; i > 0; --i) {
            const uint64_t begin = random() % 50;
            out.push_back({begin, begin + 1 + random() % 10});
        }
        normalize(out);
        return out;
    };
    for (int round = 0; round < 3000; ++round) {
        const Ranges ranges = some(), others = some(), rest = without(ranges, others);
        for (uint64_t i = 0; i < 64; ++i) {
            EXPECT_EQ(touches(rest, {i, i + 1}), touches(ranges, {i, i + 1}) && !touches(others, {i, i + 1}));
        }
    }
}

TEST(IdleWrites, SecondWriteOfUntouchedRegionIsHeld) {
    IdleWrites writes;
    EXPECT_FALSE(hold(writes, {0, 8}));
    writes.record_sent({0, 8});
    EXPECT_FALSE(hold(writes, {0, 8})) << "nothing is idle before a launch";
    EXPECT_TRUE(writes.take_for_launch(touching({{100, 200}})).empty());
    EXPECT_TRUE(hold(writes, {0, 8}));
    EXPECT_TRUE(writes.take_for_launch(touching({{100, 200}})).empty());
    EXPECT_TRUE(hold(writes, {0, 8}));
}

TEST(IdleWrites, TouchedRegionIsAlwaysSent) {
    IdleWrites writes;
    for (int token = 0; token < 3; ++token) {
        EXPECT_FALSE(hold(writes, {0, 8}));
        writes.record_sent({0, 8});
        EXPECT_TRUE(writes.take_for_launch(touching({{7, 9}})).empty());
    }
}

TEST(IdleWrites, WriteToOverwrittenRegionIsHeldThenDropped) {
    IdleWrites writes;
    writes.record_sent({0, 8});
    EXPECT_TRUE(writes.take_for_launch({{}, {{0, 16}}}).empty());
    EXPECT_TRUE(hold(writes, {0, 8}));
    EXPECT_TRUE(writes.take_for_launch({{}, {{0, 16}}}).empty());
    EXPECT_TRUE(writes.take_overlapping({0, 8}).empty()) << "the graph's result replaced it";
    writes.record_sent({0, 8});
    writes.take_for_launch({{{6, 7}}, {{0, 16}}});
    EXPECT_FALSE(hold(writes, {0, 8})) << "read before it is overwritten";
}

// A token of -sm tensor has many launches, whose results take the place of the write piece by piece.
TEST(IdleWrites, LaunchesThatOverwriteAndReadPiecesLeaveTheRegionIdle) {
    IdleWrites writes;
    writes.record_sent({0, 8});
    for (int token = 0; token < 3; ++token) {
        EXPECT_TRUE(writes.take_for_launch({{}, {{0, 2}, {6, 20}}}).empty());
        EXPECT_TRUE(writes.take_for_launch({{{0, 1}, {6, 7}}, {}}).empty()) << "these are results";
        EXPECT_TRUE(writes.take_for_launch({{{1, 2}}, {{3, 4}}}).empty());
        EXPECT_TRUE(hold(writes, {0, 8})) << token;
    }
    EXPECT_TRUE(writes.take_for_launch({{}, {{0, 2}, {3, 4}, {6, 20}}}).empty());
    const auto taken = writes.take_overlapping({0, 8});
    ASSERT_EQ(taken.size(), 2u) << "what no result has replaced";
    EXPECT_EQ(taken[0].range, (Range{2, 3}));
    EXPECT_EQ(taken[1].range, (Range{4, 6}));
    const auto data = noise(8, 1);
    EXPECT_EQ(taken[1].data, std::vector<std::byte>(data.begin() + 4, data.begin() + 6));
    EXPECT_EQ(taken[1].offset, 1u + 4u);
    EXPECT_TRUE(hold(writes, {0, 8}));
    EXPECT_EQ(writes.take_for_launch({{{2, 3}}, {}}).size(), 1u);
    EXPECT_FALSE(hold(writes, {0, 8})) << "a graph has read it";
}

TEST(IdleWrites, OnlyTheExactRegionIsHeld) {
    IdleWrites writes;
    writes.record_sent({8, 16});
    writes.take_for_launch({});
    for (const Range other : {Range{8, 15}, Range{9, 16}, Range{8, 17}, Range{0, 8}, Range{10, 12}}) {
        EXPECT_FALSE(hold(writes, other)) << other.begin << ' ' << other.end;
    }
    EXPECT_TRUE(hold(writes, {8, 16}));
}

TEST(IdleWrites, GraphThatTouchesHeldWriteGetsTheLatestData) {
    IdleWrites writes;
    writes.record_sent({0, 8});
    writes.take_for_launch({});
    ASSERT_TRUE(hold(writes, {0, 8}, 1));
    ASSERT_TRUE(hold(writes, {0, 8}, 2));
    const auto taken = writes.take_for_launch(touching({{4, 5}}));
    ASSERT_EQ(taken.size(), 1u);
    EXPECT_EQ(taken[0].range, (Range{0, 8}));
    EXPECT_EQ(taken[0].data, noise(8, 2));
    EXPECT_EQ(taken[0].region.address, 2u);
    EXPECT_EQ(taken[0].offset, 2u);
    EXPECT_FALSE(hold(writes, {0, 8})) << "the region is no longer idle";
    EXPECT_TRUE(writes.take_overlapping({0, 100}).empty());
}

TEST(IdleWrites, OverlappingCommandTakesHeldWritesOnce) {
    IdleWrites writes;
    writes.record_sent({0, 8});
    writes.record_sent({8, 16});
    writes.take_for_launch({});
    ASSERT_TRUE(hold(writes, {0, 8}, 1));
    ASSERT_TRUE(hold(writes, {8, 16}, 2));
    EXPECT_TRUE(writes.take_overlapping({16, 20}).empty());
    EXPECT_EQ(writes.take_overlapping({7, 8}).size(), 1u);
    EXPECT_EQ(writes.take_overlapping({0, 20}).size(), 1u);
    EXPECT_TRUE(writes.take_overlapping({0, 20}).empty());
}

TEST(IdleWrites, ForgottenBufferHoldsNothing) {
    IdleWrites writes;
    writes.record_sent({0, 8});
    writes.take_for_launch({});
    ASSERT_TRUE(hold(writes, {0, 8}));
    writes.forget({0, 64});
    EXPECT_TRUE(writes.take_overlapping({0, 64}).empty());
    EXPECT_FALSE(hold(writes, {0, 8}));
    writes.record_sent({0, 8});
    writes.forget({0, 64});
    writes.take_for_launch({});
    EXPECT_FALSE(hold(writes, {0, 8}));
}

TEST(IdleWrites, HeldMemoryIsBounded) {
    IdleWrites writes;
    constexpr uint64_t piece = 24 << 20;
    for (uint64_t i = 0; i < 4; ++i) {
        writes.record_sent({i * piece, (i + 1) * piece});
    }
    writes.take_for_launch({});
    const std::vector<std::byte> data(piece);
    uint64_t held = 0;
    for (uint64_t i = 0; i < 4; ++i) {
        held += writes.hold({i * piece, (i + 1) * piece}, {}, 0, data) ? piece : 0;
    }
    EXPECT_GT(held, 0u);
    EXPECT_LE(held, uint64_t{64} << 20);
    EXPECT_TRUE(writes.hold({0, piece}, {}, 0, data)) << "replacing needs no more memory";
}

TEST(IdleWrites, ManyRegions) {
    IdleWrites writes;
    for (uint64_t i = 0; i < 1000; ++i) {
        writes.record_sent({i * 8, i * 8 + 8});
    }
    writes.take_for_launch({});
    size_t held = 0;
    for (uint64_t i = 0; i < 1000; ++i) {
        held += hold(writes, {i * 8, i * 8 + 8}) ? 1 : 0;
    }
    EXPECT_GT(held, 0u);
    EXPECT_EQ(writes.take_overlapping({0, 8000}).size(), held);
}

// A model of the safety argument: the program's memory, where every write takes effect immediately, and the server's memory,
// where only sent writes do. Every read must return the same bytes from both.
class Model {
public:
    explicit Model(uint32_t seed) : random_(seed) {
        for (Range & range : usual_) {
            range = any_range(24);
        }
        for (Graph & graph : graphs_) {
            for (unsigned i = below(5); i > 0; --i) {
                graph.reads.push_back(below(4) == 0 ? any_range(64) : usual());
            }
            for (unsigned i = below(3); i > 0; --i) {
                graph.writes.push_back(below(3) == 0 ? usual() : any_range(16));
            }
            graph.footprint.touched = graph.reads;
            normalize(graph.footprint.touched);
            for (unsigned i = below(3); i > 0; --i) {
                const Range range = below(3) == 0 ? usual() : any_range(24);
                if (!touches(graph.footprint.touched, range)) {
                    graph.footprint.overwritten.push_back(range);
                }
            }
            normalize(graph.footprint.overwritten);
            for (const Range & range : graph.writes) {
                if (!covers(graph.footprint.overwritten, range)) {
                    graph.footprint.touched.push_back(range);
                }
            }
            normalize(graph.footprint.touched);
        }
    }

    void step() {
        switch (below(16)) {
            case 0: case 1: case 2: case 3: case 4: case 5: set(usual(), below(10) == 0); break;
            case 6: set(any_range(32), false); break;
            case 7: write_otherwise(below(2) == 0 ? usual() : any_range(32)); break;
            case 8: read(below(2) == 0 ? usual() : any_range(48)); break;
            case 9: copy(); break;
            case 10: if (below(8) == 0) { clear_buffer(); } break;
            default: launch(graphs_[below(below(8) == 0 ? graphs_.size() : 2)]); break;
        }
    }

    size_t held() const { return held_; }

private:
    static constexpr uint64_t base = 0x7000'0000'0000, size = 256, buffer_size = 64;
    using Memory = std::array<uint8_t, size>;
    struct Graph {
        Ranges reads, writes;  // writes: in part
        Footprint footprint;
    };

    unsigned below(size_t limit) { return static_cast<unsigned>(random_() % limit); }
    Range usual() { return usual_[below(usual_.size())]; }
    Range any_range(unsigned longest) {
        const uint64_t length = 1 + below(longest);
        return place(length);
    }
    Range place(uint64_t length) {  // within one buffer
        const uint64_t begin = base + below(size / buffer_size) * buffer_size + below(buffer_size - length + 1);
        return {begin, begin + length};
    }
    static uint8_t * at(Memory & memory, uint64_t address) { return memory.data() + (address - base); }

    void send(const Range & range, ConstBytes data) {
        ASSERT_EQ(data.size(), range.end - range.begin);
        std::memcpy(at(server_, range.begin), data.data(), data.size());
    }
    void send_held(const std::vector<HeldWrite> & writes) {
        for (const HeldWrite & write : writes) {
            // The command addresses the bytes by tensor and offset, not by range.
            EXPECT_EQ(write.region.address + write.offset, write.range.begin);
            send(write.range, write.data);
        }
    }
    std::vector<std::byte> mean(const Range & range) {
        auto data = noise(range.end - range.begin, static_cast<uint32_t>(random_()));
        std::memcpy(at(meant_, range.begin), data.data(), data.size());
        return data;
    }
    void expect_same(const Range & range, const char * reader) {
        EXPECT_TRUE(std::equal(at(meant_, range.begin), at(meant_, range.begin) + (range.end - range.begin),
                               at(server_, range.begin)))
            << reader << " read other bytes at " << range.begin - base << ".." << range.end - base;
    }

    void set(const Range & range, bool is_weight) {
        const auto data = mean(range);
        wire::Region region{};
        const uint64_t offset = below(8);
        region.address = range.begin - offset;
        if (writes_.hold(range, region, offset, data)) {
            ++held_;
            return;
        }
        send_held(writes_.take_overlapping(range));
        send(range, data);
        if (!is_weight) {
            writes_.record_sent(range);
        }
    }
    void write_otherwise(const Range & range) {  // MEMSET, SET_TENSOR_2D
        const auto data = mean(range);
        send_held(writes_.take_overlapping(range));
        send(range, data);
    }
    void read(const Range & range) {
        send_held(writes_.take_overlapping(range));
        expect_same(range, "a get");
    }
    void copy() {
        const Range from = any_range(16);
        const uint64_t length = from.end - from.begin;
        const Range to = place(length);
        send_held(writes_.take_overlapping(from));
        send_held(writes_.take_overlapping(to));
        expect_same(from, "a copy");
        std::memmove(at(meant_, to.begin), at(meant_, from.begin), length);
        std::memmove(at(server_, to.begin), at(server_, from.begin), length);
    }
    void launch(const Graph & graph) {
        send_held(writes_.take_for_launch(graph.footprint));
        for (const Range & range : graph.reads) {
            expect_same(range, "a graph");
        }
        for (Memory * memory : {&meant_, &server_}) {  // a graph's output depends on its inputs and the previous content
            uint8_t sum = 17;
            for (const Range & range : graph.reads) {
                for (uint64_t a = range.begin; a < range.end; ++a) {
                    sum = static_cast<uint8_t>(sum * 31 + *at(*memory, a));
                }
            }
            for (const Range & range : graph.footprint.overwritten) {
                std::fill(at(*memory, range.begin), at(*memory, range.end), sum);
            }
            for (const Range & range : graph.writes) {
                for (uint64_t a = range.begin; a < range.end; ++a) {
                    *at(*memory, a) = static_cast<uint8_t>(*at(*memory, a) + sum + a);
                }
            }
        }
    }
    void clear_buffer() {  // or: free it and allocate another one at its address
        const uint64_t begin = base + below(size / buffer_size) * buffer_size;
        writes_.forget({begin, begin + buffer_size});
        for (Memory * memory : {&meant_, &server_}) {
            std::fill_n(at(*memory, begin), buffer_size, uint8_t{0xcc});
        }
    }

    std::mt19937 random_;
    IdleWrites writes_;
    Memory meant_{}, server_{};
    std::array<Range, 10> usual_;
    std::array<Graph, 6> graphs_;
    size_t held_ = 0;
};

TEST(IdleWrites, EveryReadSeesTheProgramsWrites) {
    size_t held = 0;
    for (uint32_t seed = 1; seed <= 200 && !testing::Test::HasFailure(); ++seed) {
        SCOPED_TRACE(seed);
        Model model(seed);
        for (int i = 0; i < 1000 && !testing::Test::HasFailure(); ++i) {
            model.step();
        }
        held += model.held();
    }
    EXPECT_GT(held, 5000u) << "the model holds too little to show anything";
}

}  // namespace
}  // namespace caravan::client
