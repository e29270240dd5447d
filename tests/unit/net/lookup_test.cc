#include "net/lookup.h"

#include <gtest/gtest.h>

#include <atomic>
#include <future>
#include <thread>
#include <vector>

namespace caravan::net {
namespace {

constexpr seconds patience{20};

TEST(Lookup, AbandonsSlowLookupsUpToALimit) {
    std::promise<void> released;
    std::atomic<int> begun = 0, ended = 0;
    const Lookup silent = [&begun, &ended, until = released.get_future().share()](const Endpoint & endpoint) {
        ++begun;
        if (endpoint.host == "silent") {
            until.wait_for(patience);
        }
        ++ended;
        return Result<std::vector<Endpoint>>(std::vector{endpoint});
    };
    const auto find = [&](const char * host, TimePoint deadline) {
        return addresses_within({.host = host}, deadline, silent);
    };
    const auto in_time = Clock::now() + patience;
    EXPECT_EQ(find("known", in_time).value().front().host, "known");
    for (int i = 0; i <= max_lookups; ++i) {
        const auto found = find("silent", Clock::now() + milliseconds(20));
        ASSERT_FALSE(found);
        EXPECT_EQ(found.error().code, Errc::timed_out);
    }
    EXPECT_LE(begun, 1 + max_lookups);
    EXPECT_FALSE(find("known", in_time)) << "too many lookups are running";
    for (const char * address : {"127.0.0.1", "::1", "fe80::1%lo"}) {
        EXPECT_TRUE(find(address, in_time)) << "a numeric address needs no name server";
    }
    released.set_value();
    while ((ended < begun || !find("known", in_time)) && Clock::now() < in_time) {
        std::this_thread::yield();
    }
    EXPECT_TRUE(find("known", in_time));
}

}  // namespace
}  // namespace caravan::net
