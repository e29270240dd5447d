#include "server/links/reduction_group.h"

#include <gtest/gtest.h>

#include <array>
#include <cmath>
#include <future>

#include "net/socket.h"
#include "platform/process_control.h"
#include "platform/shared_memory.h"
#include "platform/socket.h"
#include "server/links/sums.h"
#include "support/wire_peer.h"
#include "tunables/links.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using test::operator+;
using test::WirePeer;

constexpr wire::Precision f32 = wire::Precision::f32, bf16 = wire::Precision::bf16;

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

// In the order of sums.h.
std::vector<float> sum_of_terms(size_t members, size_t size) {
    std::vector<std::vector<float>> terms;
    std::vector<float *> places;
    for (size_t member = 0; member < members; ++member) {
        terms.push_back(term(member, size));
    }
    for (auto & one : terms) {
        places.push_back(one.data());
    }
    sum_up(places, size);
    return terms.front();
}

// All members of a group, linked in this process.
struct Members {
    explicit Members(size_t count, std::optional<Algorithm> algorithm = std::nullopt) : links(count) {
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
            groups.emplace_back(i, std::move(own), seconds(10), algorithm, milliseconds(200));
        }
    }

    // Each member reduces its own data in a thread of its own.
    std::vector<Result<>> reduce(std::vector<std::vector<float>> & data, const std::vector<bool> & is_valid = {},
                                 wire::Precision precision = wire::Precision::f32) {
        std::vector<std::future<Result<>>> running;
        for (size_t i = 0; i < groups.size(); ++i) {
            running.push_back(std::async(std::launch::async, [&, i] {
                return groups[i].reduce(data[i], is_valid.empty() || is_valid[i], precision, is_cancelled);
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

constexpr size_t piece = tunable::reduction_piece / sizeof(float), window = tunable::reduction_window / sizeof(float);
constexpr std::array algorithms{Algorithm::direct, Algorithm::doubling, Algorithm::scatter};

class Sizes : public testing::TestWithParam<size_t> {
protected:
    static std::vector<size_t> sizes() {
        std::vector<size_t> out{0, 1, piece - 1, piece, piece + 1, 1000, 7 * piece + 5};
        if (GetParam() <= 3) {
            out.push_back(window + 3);
        }
        return out;
    }
    std::vector<std::vector<float>> terms(size_t size) const {
        std::vector<std::vector<float>> out;
        for (size_t i = 0; i < GetParam(); ++i) {
            out.push_back(term(i, size));
        }
        return out;
    }
};

TEST_P(Sizes, AllAlgorithmsGiveAllRanksTheSameBits) {
    for (const Algorithm algorithm : algorithms) {
        Members members(GetParam(), algorithm);
        for (const size_t size : sizes()) {
            const std::vector<float> expected = sum_of_terms(GetParam(), size);
            auto data = terms(size);
            for (const auto & reduced : members.reduce(data)) {
                ASSERT_TRUE(reduced) << reduced.error().text;
            }
            for (const auto & own : data) {
                ASSERT_TRUE(own == expected) << static_cast<int>(algorithm) << ", " << size;
            }
        }
    }
}

TEST_P(Sizes, AllRanksChooseAlike) {
    Members members(GetParam());
    auto data = terms(1000);
    for (const auto & reduced : members.reduce(data)) {
        ASSERT_TRUE(reduced) << reduced.error().text;
    }
    for (size_t i = 0; i < GetParam(); ++i) {
        EXPECT_TRUE(data[i] == sum_of_terms(GetParam(), 1000));
        EXPECT_EQ(members.groups[i].choice(), members.groups[0].choice());
    }
    EXPECT_FALSE(members.groups[0].choice().empty());
    if (GetParam() < 3) {
        EXPECT_EQ(members.groups[0].choice(), "direct");
    }
}

// Two steps of rounding, each to 8 bits.
TEST_P(Sizes, RoundedSumsAreTheSameOnAllRanks) {
    Members members(GetParam());
    for (const size_t size : sizes()) {
        std::vector<std::vector<float>> data(GetParam());
        for (size_t i = 0; i < GetParam(); ++i) {
            for (size_t k = 0; k < size; ++k) {
                data[i].push_back(1.0f + static_cast<float>((k * 31 + i * 17) % 1000) / 1000);
            }
        }
        std::vector<float> exact(size);
        for (const auto & own : data) {
            add_to(exact, own);
        }
        for (const auto & reduced : members.reduce(data, {}, bf16)) {
            ASSERT_TRUE(reduced) << reduced.error().text;
        }
        for (const auto & own : data) {
            ASSERT_TRUE(own == data[0]);
        }
        for (size_t k = 0; k < size; ++k) {
            ASSERT_NEAR(data[0][k], exact[k], exact[k] * 2 / 256);
        }
        EXPECT_TRUE(size <= 1 || (GetParam() > 1) == (data[0] != exact)) << "several ranks round";
    }
}

INSTANTIATE_TEST_SUITE_P(ReductionGroup, Sizes, testing::Values(1, 2, 3, 4, 5, 7, 8));

TEST(ReductionGroup, ATermThatWasNotComputedFailsOneSumOnAllRanks) {
    for (const Algorithm algorithm : algorithms) {
        for (const size_t absent : {0, 1, 2}) {
            Members members(3, algorithm);
            std::vector<bool> is_valid(3, true);
            is_valid[absent] = false;
            std::vector<std::vector<float>> data(3, std::vector<float>(100, 1));
            for (const auto & reduced : members.reduce(data, is_valid)) {
                ASSERT_FALSE(reduced);
                EXPECT_EQ(reduced.error().code, Errc::unavailable);
            }
            data.assign(3, std::vector<float>(100, 1));
            for (const auto & reduced : members.reduce(data)) {
                EXPECT_TRUE(reduced);
            }
            EXPECT_EQ(data[2][99], 3);
        }
    }
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

TEST(ReductionGroup, ReportsItsPhasesToAnObserver) {
    constexpr size_t size = 100'000;
    Members members(2);
    std::vector<std::vector<float>> data{term(0, size), term(1, size)};
    std::vector<std::tuple<Exchange::Phase, TimePoint, TimePoint>> phases;
    members.groups[1].observe([&](Exchange::Phase phase, TimePoint begin, TimePoint end) {
        phases.emplace_back(phase, begin, end);
    });
    const TimePoint before = Clock::now();
    for (const auto & done : members.reduce(data)) {
        ASSERT_TRUE(done);
    }
    ASSERT_GE(phases.size(), 3u);
    EXPECT_EQ(std::get<0>(phases[0]), Exchange::Phase::wait);
    EXPECT_EQ(std::get<0>(phases[1]), Exchange::Phase::transfer);
    EXPECT_EQ(std::get<0>(phases[2]), Exchange::Phase::add);
    EXPECT_GE(std::get<1>(phases[0]), before);
    for (size_t i = 1; i < phases.size(); ++i) {
        EXPECT_EQ(std::get<1>(phases[i]), std::get<2>(phases[i - 1])) << "one after the other, without gaps";
    }
    EXPECT_LE(std::get<2>(phases.back()), Clock::now());
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
    for (const Algorithm algorithm : algorithms) {
        Members members(3, algorithm);
        members.links[0][2]->break_off();
        std::vector<std::vector<float>> data(3, std::vector<float>(100'000, 1));
        for (const auto & reduced : members.reduce(data)) {
            EXPECT_FALSE(reduced);
        }
    }
}

TEST(ReductionGroup, StopsWaitingForTheOthersWhenCancelled) {
    Members members(2);
    std::vector<float> data(10);
    auto waiting =
        std::async(std::launch::async, [&] { return members.groups[0].reduce(data, true, f32, members.is_cancelled); });
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
        return group->reduce(data, true, f32, is_cancelled);
    }
    WirePeer peer;
    std::unique_ptr<net::Transport> link;
    std::optional<ReductionGroup> group;
    std::atomic<bool> is_cancelled = false;
};

TEST(ReductionGroup, ARankThatSendsNothingIsNamed) {
    Hostile other;
    std::vector<float> data(10);
    const auto reduced = other.group->reduce(data, true, f32, other.is_cancelled);
    ASSERT_FALSE(reduced);
    EXPECT_EQ(reduced.error().text, "rank 1 of the group sent nothing for 0.2 s");
}

// A byte now and then does not extend the patience.
TEST(ReductionGroup, ARankThatSendsSingleBytesIsNamed) {
    Hostile other;
    std::atomic<bool> is_over = false;
    const auto drips = std::async(std::launch::async, [&] {
        for (const std::byte byte : bytes_of(wire::ReduceHeader{0, 40, 1}) + std::vector<std::byte>(40)) {
            const TimePoint end = Clock::now() + milliseconds(20);
            while (!is_over && Clock::now() < end) {
                std::this_thread::sleep_for(milliseconds(1));
            }
            other.peer.send(ConstBytes(&byte, 1));
        }
    });
    std::vector<float> data(10);
    const auto reduced = other.group->reduce(data, true, f32, other.is_cancelled);
    is_over = true;
    ASSERT_FALSE(reduced);
    EXPECT_EQ(reduced.error().text, "rank 1 of the group sent less than 512 bytes/s for 0.2 s");
}

std::chrono::nanoseconds processor_time() {
    timespec time{};
    EXPECT_EQ(::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &time), 0);
    return seconds(time.tv_sec) + std::chrono::nanoseconds(time.tv_nsec);
}

TEST(ReductionGroup, WaitingForSilentRanksTakesNoProcessorTime) {
    for (const bool shares : {false, true}) {
        constexpr size_t count = 4;
        std::vector<test::SocketPair> pairs(count);
        std::vector<std::unique_ptr<net::Transport>> transports(count);
        std::vector<net::Transport *> links(count);
        std::vector<std::byte> memory(shares ? count * wire::shared_memory_size + 64 : 0);
        std::vector<std::unique_ptr<MemoryLink>> shared;
        for (size_t i = 1; i < count; ++i) {
            pairs[i] = test::socket_pair();
            transports[i] = transport_of(std::move(pairs[i].near));
            links[i] = transports[i].get();
            if (shares) {
                auto * const begin = memory.data() + (64 - reinterpret_cast<uintptr_t>(memory.data()) % 64);
                shared.push_back(std::make_unique<MemoryLink>(
                    MutableBytes(begin + (i - 1) * wire::shared_memory_size, wire::shared_memory_size), true, *links[i]));
                links[i] = shared.back().get();
            }
        }
        ReductionGroup group(0, links, seconds(2), Algorithm::direct);
        std::vector<float> data(10);
        const std::atomic<bool> is_cancelled = false;
        const auto before = processor_time();
        EXPECT_FALSE(group.reduce(data, true, f32, is_cancelled));
        EXPECT_LT(processor_time() - before, milliseconds(20)) << "1 % of 2 s";
    }
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

// Makes memory in this process, as a supervisor does for its workers.
class LocalMemory final : public MemorySource {
public:
    Result<Made> make() override {
        if (!can_make) {
            return fail(Errc::unavailable, "no memory is made");
        }
        auto memory = platform::make_shared_memory(wire::shared_memory_size);
        Made made{.memory = *platform::duplicate(memory->get())};
        made.place.process = static_cast<uint32_t>(platform::own_process());
        made.place.descriptor = static_cast<uint32_t>(memory->get());
        std::ranges::fill(made.place.secret, std::byte{5});
        std::ranges::copy(made.place.secret, platform::SharedMapping::map(memory->get(), wire::shared_memory_size)->bytes().data());
        kept.push_back(std::move(*memory));
        return made;
    }
    Result<UniqueFd> open(const wire::MemoryPlace & place) override {
        ++opened;
        if (opens_another) {
            return platform::make_shared_memory(wire::shared_memory_size);
        }
        return platform::open_shared_memory(static_cast<int>(place.process), static_cast<int>(place.descriptor),
                                            wire::shared_memory_size);
    }
    void release(const wire::MemoryPlace & place) override {
        std::erase_if(kept, [&](const UniqueFd & fd) { return fd.get() == static_cast<int>(place.descriptor); });
    }

    bool can_make = true, opens_another = false;
    int opened = 0;
    std::vector<UniqueFd> kept;
};

// Members that share memory. The earlier one of each pair opened the link.
struct SharingMembers : Members {
    explicit SharingMembers(size_t count, std::optional<Algorithm> algorithm = std::nullopt)
        : Members(count, algorithm), memory(count) {
        for (size_t i = 0; i < count; ++i) {
            std::vector<SharingRank> others;
            for (size_t other = 0; other < count; ++other) {
                if (other != i) {
                    others.push_back({other, i < other});
                }
            }
            groups[i].share_memory_with(others, memory[i]);
        }
    }
    void expect_sums(size_t size) {
        std::vector<std::vector<float>> data;
        for (size_t i = 0; i < groups.size(); ++i) {
            data.push_back(term(i, size));
        }
        for (const auto & reduced : reduce(data)) {
            ASSERT_TRUE(reduced) << reduced.error().text;
        }
        for (const auto & own : data) {
            ASSERT_TRUE(own == sum_of_terms(groups.size(), size)) << size;
        }
    }
    std::vector<LocalMemory> memory;
};

TEST(SharedReductions, HaveTheSameSums) {
    for (const size_t count : {2, 3, 5}) {
        for (const auto algorithm : {std::optional<Algorithm>(), std::optional(Algorithm::direct),
                                     std::optional(Algorithm::doubling), std::optional(Algorithm::scatter)}) {
            SharingMembers members(count, algorithm);
            for (const size_t size : {size_t{1}, size_t{1000}, 7 * piece + 5, window + 3}) {
                members.expect_sums(size);
            }
            for (size_t i = 0; i < count; ++i) {
                EXPECT_EQ(members.groups[i].sharing(), count - 1);
                EXPECT_TRUE(members.memory[i].kept.empty()) << "all was released";
            }
        }
    }
}

TEST(SharedReductions, UseTheNetworkWhereNoMemoryIsShared) {
    for (const bool can_make : {false, true}) {
        SharingMembers members(3);
        members.memory[0].can_make = can_make;
        members.memory[2].opens_another = can_make;
        members.expect_sums(1000);
        members.expect_sums(100'000);
        EXPECT_EQ(members.groups[0].sharing(), can_make ? 1u : 0u);
        EXPECT_EQ(members.groups[1].sharing(), 1u);
        EXPECT_EQ(members.groups[2].sharing(), can_make ? 0u : 1u);
        EXPECT_TRUE(members.memory[0].kept.empty());
    }
}

TEST(SharedReductions, ARankThatLeavesFailsTheOthers) {
    SharingMembers members(3);
    members.expect_sums(10);
    members.groups[1].leave({Errc::no_memory, "no memory"});
    std::vector<std::vector<float>> data(3, std::vector<float>(100, 1));
    const auto reduced = members.reduce(data);
    ASSERT_FALSE(reduced[0] || reduced[1] || reduced[2]);
    EXPECT_EQ(reduced[0].error().text, "rank 1 has left the group");
    EXPECT_EQ(members.groups[0].sharing(), 0u) << "the memory of a group that has failed is freed";
}

TEST(SharedReductions, ABrokenLinkFailsTheOtherRank) {
    SharingMembers members(2);
    members.expect_sums(10);
    members.links[0][1]->break_off();
    std::vector<float> data(100'000, 1);
    EXPECT_FALSE(members.groups[1].reduce(data, true, f32, members.is_cancelled));
}

// The other rank opened the link. It says and does what the test wants.
struct HostileSharer : Hostile {
    HostileSharer() {
        group->share_memory_with({{1, false}}, memory);
        running = std::async(std::launch::async, [this] { return group->reduce(data, true, f32, is_cancelled); });
    }
    template <class Message>
    void send(Message message) {
        peer.send(bytes_of(wire::ReduceHeader{sent++, sizeof message, 1}));
        peer.send(bytes_of(message));
    }
    // Returns the message of the rank under test.
    template <class Message>
    Message receive() {
        struct [[gnu::packed]] {
            wire::ReduceHeader header;
            Message message;
        } out{};
        EXPECT_TRUE(peer.receive(mutable_bytes(&out, sizeof out)));
        return out.message;
    }
    void pretend_same_machine() { send(receive<wire::MachineMark>()); }

    LocalMemory memory;
    std::vector<float> data = std::vector<float>(10, 1);
    uint64_t sent = 0;
    std::future<Result<>> running;
};

TEST(SharedReductions, AnotherMachineSharesNoMemory) {
    HostileSharer other;
    wire::MachineMark mark = other.receive<wire::MachineMark>();
    mark.mark[3] ^= std::byte{1};
    other.send(mark);
    other.send(std::array<float, 10>{});
    EXPECT_TRUE(other.running.get());
    EXPECT_EQ(other.memory.opened, 0);
}

TEST(SharedReductions, AMachineIsMarkedAnewEachTime) {
    HostileSharer one, other;
    const auto first = one.receive<wire::MachineMark>(), second = other.receive<wire::MachineMark>();
    EXPECT_FALSE(std::ranges::equal(first.mark, second.mark) || std::ranges::equal(first.salt, second.salt));
    one.is_cancelled = other.is_cancelled = true;
}

TEST(SharedReductions, AWrongSecretIsNotUsed) {
    HostileSharer other;
    other.pretend_same_machine();
    auto made = *other.memory.make();
    made.place.is_made = 1;
    made.place.secret[0] ^= std::byte{1};
    other.send(made.place);
    EXPECT_EQ(other.receive<wire::MemoryAnswer>().is_mapped, 0);
    other.send(wire::MemoryVerdict{1});  // nevertheless
    other.send(std::array<float, 10>{});
    EXPECT_TRUE(other.running.get());
    EXPECT_EQ(other.group->sharing(), 0u);
}

// The sum fails, and nothing else happens.
TEST(SharedReductions, RubbishInTheMemoryIsAnError) {
    for (const size_t at : {wire::at_written(0), wire::at_read(1)}) {
        HostileSharer other;
        other.pretend_same_machine();
        auto made = *other.memory.make();
        made.place.is_made = 1;
        const auto memory = *platform::SharedMapping::map(made.memory.get(), wire::shared_memory_size);
        other.send(made.place);
        const auto answer = other.receive<wire::MemoryAnswer>();
        EXPECT_EQ(answer.is_mapped, 1);
        EXPECT_TRUE(std::ranges::equal(answer.proof, memory.bytes().subspan(wire::at_proof, wire::secret_size)));
        std::ranges::fill(memory.bytes().subspan(at, sizeof(uint64_t)), std::byte{0xee});
        other.send(wire::MemoryVerdict{1});
        const auto reduced = other.running.get();
        ASSERT_FALSE(reduced);
        EXPECT_EQ(reduced.error().code, Errc::protocol) << reduced.error().text;
    }
}

// A message through the memory is checked as one over a network.
TEST(SharedReductions, MalformedMessagesInTheMemoryAreRefused) {
    HostileSharer other;
    other.pretend_same_machine();
    auto made = *other.memory.make();
    made.place.is_made = 1;
    const auto memory = *platform::SharedMapping::map(made.memory.get(), wire::shared_memory_size);
    other.send(made.place);
    other.receive<wire::MemoryAnswer>();
    const auto header = bytes_of(wire::ReduceHeader{3, UINT64_MAX, 1});  // message 3 is due, of 40 bytes
    std::ranges::copy(header, memory.bytes().data() + wire::at_ring(0));
    store(memory.bytes().data() + wire::at_written(0), uint64_t{header.size()});
    other.send(wire::MemoryVerdict{1});
    EXPECT_EQ(other.running.get().error().code, Errc::protocol);
}

}  // namespace
}  // namespace caravan::server
