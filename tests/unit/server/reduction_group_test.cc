#include "server/links/reduction_group.h"

#include <gtest/gtest.h>

#include <cmath>
#include <future>

#include "net/socket.h"
#include "support/wire_peer.h"
#include "tunables/links.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using test::WirePeer;

std::unique_ptr<net::Transport> transport_of(UniqueFd fd) {
    net::set_non_blocking(fd.get(), true);
    return *net::make_socket_transport(std::move(fd));
}

// Numbers whose sum depends on the order of the additions.
std::vector<float> term(size_t member, size_t size) {
    std::vector<float> out(size);
    for (size_t i = 0; i < size; ++i) {
        const float sign = member % 2 == 0 ? 1.0f : -1.1f;
        out[i] = std::ldexp(sign + sign * static_cast<float>(i % 977) / 977, static_cast<int>((i + 7 * member) % 40));
    }
    return out;
}

std::vector<float> sum_in_order(size_t members, size_t size) {
    std::vector<float> out = term(0, size);
    for (size_t member = 1; member < members; ++member) {
        const std::vector<float> next = term(member, size);
        for (size_t i = 0; i < size; ++i) {
            out[i] += next[i];
        }
    }
    return out;
}

// All members of a group, linked in this process.
struct Members {
    explicit Members(size_t count) : links(count) {
        for (auto & own : links) {
            own.resize(count);
        }
        for (size_t later = 0; later < count; ++later) {
            for (size_t earlier = 0; earlier < later; ++earlier) {
                auto pair = test::socket_pair();
                links[later][earlier] = transport_of(std::move(pair.near));
                links[earlier][later] = transport_of(std::move(pair.far));
            }
        }
        for (size_t i = 0; i < count; ++i) {
            std::vector<net::Transport *> own;
            for (const auto & link : links[i]) {
                own.push_back(link.get());
            }
            groups.emplace_back(i, std::move(own), seconds(10), milliseconds(200));
        }
    }

    // Each member reduces its own data in a thread of its own.
    std::vector<Result<>> reduce(std::vector<std::vector<float>> & data, const std::vector<bool> & is_valid = {}) {
        std::vector<std::future<Result<>>> running;
        for (size_t i = 0; i < groups.size(); ++i) {
            running.push_back(std::async(std::launch::async, [&, i] {
                return groups[i].reduce(data[i], is_valid.empty() || is_valid[i], is_cancelled);
            }));
        }
        std::vector<Result<>> out;
        for (auto & one : running) {
            out.push_back(one.get());
        }
        return out;
    }

    std::vector<std::vector<std::unique_ptr<net::Transport>>> links;
    std::vector<ReductionGroup> groups;
    std::atomic<bool> is_cancelled = false;
};

class Sizes : public testing::TestWithParam<size_t> {};

TEST_P(Sizes, AllRanksHoldTheSumInTheirOrder) {
    constexpr size_t piece = tunable::reduction_piece / sizeof(float), window = tunable::reduction_window / sizeof(float);
    Members members(GetParam());
    for (const size_t size : {size_t{0}, size_t{1}, piece - 1, piece, piece + 1, size_t{1000}, 2 * window + 3}) {
        const std::vector<float> expected = sum_in_order(GetParam(), size);
        std::vector<std::vector<float>> data;
        for (size_t i = 0; i < GetParam(); ++i) {
            data.push_back(term(i, size));
        }
        for (const auto & reduced : members.reduce(data)) {
            ASSERT_TRUE(reduced) << reduced.error().text;
        }
        for (const auto & own : data) {
            ASSERT_TRUE(own == expected) << size;
        }
    }
}

INSTANTIATE_TEST_SUITE_P(ReductionGroup, Sizes, testing::Values(1, 2, 3, 4, 7));

TEST(ReductionGroup, ATermThatWasNotComputedFailsOneSumOnAllRanks) {
    Members members(3);
    std::vector<std::vector<float>> data(3, std::vector<float>(100, 1));
    for (const auto & reduced : members.reduce(data, {true, false, true})) {
        ASSERT_FALSE(reduced);
        EXPECT_EQ(reduced.error().code, Errc::unavailable);
    }
    data.assign(3, std::vector<float>(100, 1));
    for (const auto & reduced : members.reduce(data)) {
        EXPECT_TRUE(reduced);
    }
    EXPECT_EQ(data[2][99], 3);
}

TEST(ReductionGroup, SizesThatDifferFailOnAllRanksForEver) {
    Members members(3);
    std::vector<std::vector<float>> data{std::vector<float>(100), std::vector<float>(100), std::vector<float>(200'000)};
    for (int round = 0; round < 2; ++round) {
        for (const auto & reduced : members.reduce(data)) {
            EXPECT_FALSE(reduced);
        }
    }
}

TEST(ReductionGroup, ARankThatLeavesFailsTheOthers) {
    Members members(3);
    members.groups[1].leave({Errc::no_memory, "no memory"});
    std::vector<std::vector<float>> data(3, std::vector<float>(100, 1));
    const auto reduced = members.reduce(data);
    ASSERT_FALSE(reduced[0] || reduced[1] || reduced[2]);
    EXPECT_EQ(reduced[0].error().text, "rank 1 has left the group");
    EXPECT_EQ(reduced[1].error().text, "no memory");
}

TEST(ReductionGroup, ABrokenLinkFailsAllRanks) {
    Members members(3);
    members.links[0][2]->break_off();
    std::vector<std::vector<float>> data(3, std::vector<float>(100'000, 1));
    for (const auto & reduced : members.reduce(data)) {
        EXPECT_FALSE(reduced);
    }
}

TEST(ReductionGroup, StopsWaitingForTheOthersWhenCancelled) {
    Members members(2);
    std::vector<float> data(10);
    auto waiting = std::async(std::launch::async, [&] { return members.groups[0].reduce(data, true, members.is_cancelled); });
    EXPECT_EQ(waiting.wait_for(milliseconds(20)), std::future_status::timeout);
    members.is_cancelled = true;
    EXPECT_FALSE(waiting.get());
}

// What a member receives that is not from a ReductionGroup.
struct Hostile {
    Hostile() {
        auto pair = test::socket_pair();
        peer = WirePeer(std::move(pair.far));
        link = transport_of(std::move(pair.near));
        group.emplace(0, std::vector<net::Transport *>{nullptr, link.get()}, milliseconds(200));
    }
    Result<> reduce(wire::ReduceHeader header) {
        peer.send(bytes_of(header));
        std::vector<float> data(10);
        return group->reduce(data, true, is_cancelled);
    }
    WirePeer peer;
    std::unique_ptr<net::Transport> link;
    std::optional<ReductionGroup> group;
    std::atomic<bool> is_cancelled = false;
};

TEST(ReductionGroup, ARankThatSendsNothingIsNamed) {
    Hostile other;
    std::vector<float> data(10);
    const auto reduced = other.group->reduce(data, true, other.is_cancelled);
    ASSERT_FALSE(reduced);
    EXPECT_EQ(reduced.error().text, "rank 1 of the group sent nothing for 0.2 s");
}

TEST(ReductionGroup, MalformedHeadersAreRefused) {
    for (const wire::ReduceHeader & header :
         {wire::ReduceHeader{1, 40, 1}, {0, 44, 1}, {0, UINT64_MAX, 1}, {0, 40, 2}, {0, 0, 0}}) {
        Hostile other;
        const auto reduced = other.reduce(header);
        ASSERT_FALSE(reduced);
        EXPECT_EQ(reduced.error().code, Errc::protocol);
        EXPECT_FALSE(other.reduce({1, 40, 1})) << "it continued";
    }
}

}  // namespace
}  // namespace caravan::server
