#include "base/config.h"

#include <gtest/gtest.h>

#include <cstdlib>
#include <limits>
#include <mutex>
#include <string>
#include <vector>

#include "base/log.h"

namespace caravan {
namespace {

std::mutex lines_mutex;
std::vector<std::string> lines;

class Config : public testing::Test {
protected:
    Config() {
        lines.clear();
        set_log_sink([](LogLevel level, std::string_view line) {
            std::lock_guard lock(lines_mutex);
            if (level >= LogLevel::warning) {
                lines.emplace_back(line);
            }
        });
    }
    ~Config() override {
        ::unsetenv("CARAVAN_TEST_NUMBER");
        set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
    }

    int64_t read(const char * text) {
        ::setenv("CARAVAN_TEST_NUMBER", text, 1);
        return env_integer("CARAVAN_TEST_NUMBER", 7, -10, 100);
    }
};

TEST_F(Config, TakesWholeNumbersWithinTheLimits) {
    EXPECT_EQ(read("42"), 42);
    EXPECT_EQ(read("100"), 100);
    EXPECT_EQ(read("-10"), -10);
    EXPECT_EQ(read("0"), 0);
    EXPECT_TRUE(lines.empty());
}

TEST_F(Config, UnsetAndEmptyMeanTheDefaultSilently) {
    ::unsetenv("CARAVAN_TEST_NUMBER");
    EXPECT_EQ(env_integer("CARAVAN_TEST_NUMBER", 7, -10, 100), 7);
    EXPECT_EQ(read(""), 7);
    EXPECT_TRUE(lines.empty());
}

TEST_F(Config, AnythingElseIsReportedAndTheDefaultUsed) {
    size_t reported = 0;
    for (const char * text : {"101", "-11", "12x", "x", "1.5", "0x10", " 5", "5 ", "99999999999999999999", "--3"}) {
        EXPECT_EQ(read(text), 7) << text;
        ASSERT_EQ(lines.size(), ++reported) << text;
        EXPECT_TRUE(lines.back().contains("CARAVAN_TEST_NUMBER") && lines.back().contains(text)) << lines.back();
    }
}

TEST_F(Config, TheLimitsMayBeThoseOfTheType) {
    ::setenv("CARAVAN_TEST_NUMBER", "-9223372036854775808", 1);
    using Limits = std::numeric_limits<int64_t>;
    EXPECT_EQ(env_integer("CARAVAN_TEST_NUMBER", 0, Limits::min(), Limits::max()), Limits::min());
}

}  // namespace
}  // namespace caravan
