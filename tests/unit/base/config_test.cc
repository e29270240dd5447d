#include "base/config.h"

#include <gtest/gtest.h>

#include <array>
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

TEST_F(Config, AcceptsIntegersWithinTheLimits) {
    EXPECT_EQ(read("42"), 42);
    EXPECT_EQ(read("100"), 100);
    EXPECT_EQ(read("-10"), -10);
    EXPECT_EQ(read("0"), 0);
    EXPECT_TRUE(lines.empty());
}

TEST_F(Config, UnsetOrEmptyGivesTheDefaultWithoutAWarning) {
    ::unsetenv("CARAVAN_TEST_NUMBER");
    EXPECT_EQ(env_integer("CARAVAN_TEST_NUMBER", 7, -10, 100), 7);
    EXPECT_EQ(read(""), 7);
    EXPECT_TRUE(lines.empty());
}

TEST_F(Config, InvalidIntegerIsReportedAndTheDefaultUsed) {
    size_t reported = 0;
    for (const char * text : {"101", "-11", "12x", "x", "1.5", "0x10", " 5", "5 ", "99999999999999999999", "--3"}) {
        EXPECT_EQ(read(text), 7) << text;
        ASSERT_EQ(lines.size(), ++reported) << text;
        EXPECT_EQ(lines.back(), formatted("CARAVAN_TEST_NUMBER=\"{}\" is not a whole number from -10 to 100; using the "
                                          "default, 7", text));
    }
}

TEST_F(Config, UnknownChoiceIsReportedAndTheDefaultUsed) {
    constexpr std::array<std::string_view, 3> words{"auto", "tcp", "rdma"};
    const auto choose = [&](const char * text) {
        ::setenv("CARAVAN_TEST_NUMBER", text, 1);
        return env_choice("CARAVAN_TEST_NUMBER", words, 1);
    };
    EXPECT_EQ(choose("auto"), 0u);
    EXPECT_EQ(choose("rdma"), 2u);
    EXPECT_EQ(choose(""), 1u);
    EXPECT_TRUE(lines.empty());
    for (const char * text : {"bogus", "RDMA", "tcp ", "0"}) {
        EXPECT_EQ(choose(text), 1u);
        EXPECT_EQ(lines.back(),
                  formatted("CARAVAN_TEST_NUMBER=\"{}\" is not auto, tcp or rdma; using the default, tcp", text));
    }
    EXPECT_EQ(lines.size(), 4u);
}

TEST_F(Config, InvalidFlagIsReportedAndTheDefaultUsed) {
    const auto flag = [](const char * text, bool fallback) {
        ::setenv("CARAVAN_TEST_NUMBER", text, 1);
        return env_flag("CARAVAN_TEST_NUMBER", fallback);
    };
    EXPECT_TRUE(flag("1", false));
    EXPECT_FALSE(flag("0", true));
    EXPECT_TRUE(flag("", true));
    for (const char * on : {"yes", "on", "true"}) {
        EXPECT_TRUE(flag(on, false)) << on;
    }
    for (const char * off : {"no", "off", "false"}) {
        EXPECT_FALSE(flag(off, true)) << off;
    }
    EXPECT_TRUE(lines.empty());
    for (const char * neither : {"2", "YES", "enabled"}) {
        EXPECT_FALSE(flag(neither, false));
        EXPECT_EQ(lines.back(), formatted("CARAVAN_TEST_NUMBER=\"{}\" is not 0 or 1; using the default, 0", neither));
    }
}

TEST_F(Config, ValueCannotForgeALogLine) {
    read("5\nerror: forged");
    EXPECT_FALSE(lines.back().contains('\n'));
}

TEST_F(Config, FaultsAreReportedAsIgnoredByABuildWithoutThem) {
    ::setenv("GGML_RPC_FAULT", "reset", 1);
    check_environment(true);
    EXPECT_TRUE(lines.empty());
    check_environment(false);
    ::unsetenv("GGML_RPC_FAULT");
    ASSERT_EQ(lines.size(), 1u);
    EXPECT_TRUE(lines[0].starts_with("GGML_RPC_FAULT is ignored")) << lines[0];
}

TEST_F(Config, LimitsMayBeThoseOfTheType) {
    ::setenv("CARAVAN_TEST_NUMBER", "-9223372036854775808", 1);
    using Limits = std::numeric_limits<int64_t>;
    EXPECT_EQ(env_integer("CARAVAN_TEST_NUMBER", 0, Limits::min(), Limits::max()), Limits::min());
}

}  // namespace
}  // namespace caravan
