#include "bench/traffic.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/session_stats.h"

namespace caravan::client {
namespace {

using test_stats::a_session;

TEST(Stats, CanBeParsedByRpcBench) {
    SessionStats idle = a_session();
    idle.since_load.launches = 0;
    const auto sessions =
        bench::parse_stats(to_json(a_session()) + "\n" + to_json(idle) + "\n" + to_json(a_session()) + "\n");
    ASSERT_TRUE(sessions) << sessions.error().text;
    ASSERT_EQ(sessions->size(), 2u);
    const bench::SessionCounts & session = (*sessions)[0];
    EXPECT_EQ(session.replacements, 5u);
    EXPECT_EQ(session.sends, 3u);
    EXPECT_EQ(session.round_trips, 2u);
    EXPECT_EQ(session.waiting_s, 1.0);
    EXPECT_EQ(session.round_trip_s, 20e-6);
    EXPECT_DOUBLE_EQ(*session.busy_s, 0.7) << "a wait for another server is not busy time";
    EXPECT_DOUBLE_EQ(*bench::share_from_cache(*sessions), 0.4);
    EXPECT_FALSE(bench::share_from_cache({}));
    EXPECT_TRUE(bench::parse_stats("")->empty());
    auto older = nlohmann::json::parse(to_json(a_session()));
    older.erase("replacements");
    EXPECT_EQ(bench::parse_stats(older.dump())->front().replacements, 0u);
    EXPECT_FALSE(bench::parse_stats("{}\n"));
    EXPECT_FALSE(bench::parse_stats("no json\n"));
    auto strange = nlohmann::json::parse(to_json(a_session()));
    strange["since_load"]["sends"] = 1e30;
    EXPECT_FALSE(bench::parse_stats(strange.dump()));
}

}  // namespace
}  // namespace caravan::client

namespace caravan::bench {
namespace {

SessionCounts session(std::string endpoint, uint64_t count, double waiting_s, double busy_s, double round_trip_s) {
    return {.endpoint = std::move(endpoint), .sends = count, .bytes_sent = 100 * count, .bytes_received = 10 * count,
            .round_trips = count, .waiting_s = waiting_s, .round_trip_s = round_trip_s, .busy_s = busy_s};
}

TEST(BenchTraffic, TrafficIsTheDifferenceOfTwoRuns) {
    // Sessions end in any order. 10 more tokens; per token 2 round trips and 300 µs, including 200 µs of waits.
    const GeneratedTokens shorter{10, 1.000, {session("a", 15, 0.5, 0.4, 10e-6), session("b", 15, 0.5, 0.4, 30e-6)}};
    const GeneratedTokens longer{20, 1.003, {session("b", 25, 0.501, 0.4005, 20e-6), session("a", 25, 0.501, 0.4005, 40e-6)}};
    const auto traffic = traffic_of(shorter, longer, Computing::in_turn);
    ASSERT_TRUE(traffic) << traffic.error().text;
    EXPECT_DOUBLE_EQ(traffic->round_trips, 2);
    EXPECT_DOUBLE_EQ(traffic->sends, 2);
    EXPECT_DOUBLE_EQ(traffic->bytes_up, 200);
    EXPECT_DOUBLE_EQ(traffic->bytes_down, 20);
    EXPECT_NEAR(traffic->us, 300, 1e-6);
    ASSERT_TRUE(traffic->shares);
    EXPECT_NEAR(traffic->shares->client, 100, 1e-6);
    EXPECT_NEAR(traffic->shares->compute, 100, 1e-6);
    EXPECT_NEAR(traffic->shares->wire, 30, 1e-6) << "the shorter of each server's two";
    EXPECT_NEAR(traffic->shares->queue, 70, 1e-6);
}

TEST(BenchTraffic, ServersThatComputeAtOnceTakeAsLongAsTheSlowest) {
    const GeneratedTokens shorter{10, 1.000, {session("a", 15, 0.5, 0.4, 10e-6), session("b", 15, 0.5, 0.4, 20e-6)}};
    const GeneratedTokens longer{20, 1.002, {session("a", 25, 0.5015, 0.4010, 10e-6), session("b", 25, 0.5, 0.4012, 20e-6)}};
    const auto traffic = traffic_of(shorter, longer, Computing::at_once);
    ASSERT_TRUE(traffic && traffic->shares);
    EXPECT_NEAR(traffic->shares->client, 50, 1e-6);
    EXPECT_NEAR(traffic->shares->compute, 120, 1e-6);
    EXPECT_NEAR(traffic->shares->wire, 20, 1e-6);
    EXPECT_NEAR(traffic->shares->queue, 10, 1e-6);
}

TEST(BenchTraffic, StockServerHasNoTimeShares) {
    SessionCounts few{.endpoint = "a", .sends = 1}, many{.endpoint = "a", .sends = 3};
    const auto traffic = traffic_of({1, 1, {few}}, {2, 2, {many}}, Computing::in_turn);
    ASSERT_TRUE(traffic);
    EXPECT_DOUBLE_EQ(traffic->sends, 2);
    EXPECT_FALSE(traffic->shares);
}

TEST(BenchTraffic, RefusesRunsOfDifferentServersOrEqualLength) {
    const std::vector<SessionCounts> a{{.endpoint = "a"}}, b{{.endpoint = "b"}};
    EXPECT_FALSE(traffic_of({2, 1, a}, {2, 1, a}, Computing::in_turn)) << "as many tokens";
    EXPECT_FALSE(traffic_of({1, 1, a}, {2, 2, b}, Computing::in_turn)) << "other servers";
    EXPECT_FALSE(traffic_of({1, 1, a}, {2, 2, {}}, Computing::in_turn));
}

}  // namespace
}  // namespace caravan::bench
