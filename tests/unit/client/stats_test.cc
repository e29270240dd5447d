#include "client/observe/stats.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

#include "support/session_stats.h"

namespace caravan::client {
namespace {

using test_stats::a_session;

TEST(Stats, FormatAsOneLineOfJson) {
    const std::string line = to_json(a_session());
    EXPECT_FALSE(line.contains('\n'));
    const auto read = nlohmann::json::parse(line);
    EXPECT_EQ(read["endpoint"], "unix:/a \"b\"\\c\n");
    EXPECT_EQ(read["queue_pairs"], 2);
    EXPECT_EQ(read["sends"], 9);
    EXPECT_EQ(read["launches"], 6);
    EXPECT_EQ(read["waiting_s"], 7.0);
    EXPECT_EQ(read["since_load"]["bytes_sent"], 300);
    EXPECT_EQ(read["weights"]["from_cache"], 400);
    EXPECT_EQ(read["served_s"]["LAUNCH"], 0.6);
    SessionStats stock = a_session();
    stock.round_trip_ns.reset();
    EXPECT_TRUE(nlohmann::json::parse(to_json(stock))["round_trip_s"].is_null());
}

}  // namespace
}  // namespace caravan::client
