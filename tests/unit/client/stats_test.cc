#include "client/observe/stats.h"

#include <gtest/gtest.h>

#include <nlohmann/json.hpp>

namespace caravan::client {
namespace {

SessionStats a_session() {
    return {.endpoint = "unix:/a \"b\"\\c\n",
            .dialect = "native",
            .transport = "unix",
            .whole = {{.sends = 9, .bytes_sent = 900, .bytes_received = 90, .round_trips = 8, .waiting_ns = 7'000'000'000,
                       .sending_ns = 5},
                      6,
                      12.5},
            .since_load = {{.sends = 3, .bytes_sent = 300, .bytes_received = 30, .round_trips = 2,
                            .waiting_ns = 1'000'000'000},
                           2,
                           1.5},
            .weights = {.bytes = 1000, .from_cache = 400, .time = seconds(2)},
            .round_trip_ns = 20'000,
            .served_ns = {{"LAUNCH", 600'000'000}, {"READ", 100'000'000}, {"TAKE", 900'000'000}}};
}

TEST(Stats, FormatAsOneLineOfJson) {
    const std::string line = to_json(a_session());
    EXPECT_FALSE(line.contains('\n'));
    const auto read = nlohmann::json::parse(line);
    EXPECT_EQ(read["endpoint"], "unix:/a \"b\"\\c\n");
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
