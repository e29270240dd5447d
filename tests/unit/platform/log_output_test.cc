#include "platform/log_output.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#include <chrono>
#include <cstdio>
#include <ctime>
#include <sstream>
#include <string>

#include "base/line_limit.h"
#include "base/line_shares.h"
#include "base/timestamp.h"
#include "platform/unique_fd.h"

namespace caravan {
namespace {

struct Pipe {
    Pipe() {
        int ends[2] = {-1, -1};
        EXPECT_EQ(::pipe2(ends, O_CLOEXEC), 0);
        read_end = UniqueFd(ends[0]);
        write_end = UniqueFd(ends[1]);
    }
    std::string read() {
        std::string text(1 << 20, '\0');
        const ssize_t got = ::read(read_end.get(), text.data(), text.size());
        text.resize(got > 0 ? static_cast<size_t>(got) : 0);
        return text;
    }

    UniqueFd read_end, write_end;
};

TEST(LogOutput, WritesLines) {
    Pipe pipe;
    LogOutput output(pipe.write_end.get());
    output.write("one");
    output.write("two");
    EXPECT_EQ(pipe.read(), "one\ntwo\n");
}

TEST(LogOutput, DropsAndCountsLinesIfAPipeIsNotRead) {
    Pipe pipe;
    LogOutput output(pipe.write_end.get());
    const std::string line(100, 'x');
    int written = 0;
    while (output.dropped() == 0) {
        ASSERT_LT(++written, 100'000);
        output.write(line);
    }
    output.write(line);  // the pipe is full
    std::string text = pipe.read();
    output.write("again");
    text += pipe.read();
    EXPECT_EQ(output.dropped(), 0u);
    EXPECT_TRUE(text.ends_with("\nagain\n"));
    unsigned long shown = 0, missed = 0, count = 0;
    std::istringstream lines(text);
    for (std::string found; std::getline(lines, found);) {
        if (std::sscanf(found.c_str(), "warning: %lu log lines were dropped: the log was not read", &count) == 1) {
            missed += count;
        } else if (found != "again") {
            EXPECT_EQ(found, line);
            ++shown;
        }
    }
    EXPECT_EQ(missed, 2u);
    EXPECT_EQ(shown + missed, static_cast<unsigned long>(written) + 1);
}

TEST(LogOutput, LeavesOtherDescriptorsInBlockingMode) {
    Pipe pipe;
    const UniqueFd other(::dup(pipe.write_end.get()));
    LogOutput output(pipe.write_end.get());
    EXPECT_EQ(::fcntl(other.get(), F_GETFL) & O_NONBLOCK, 0);
}

TEST(LogOutput, WritesWholeLinesIfASocketIsNotRead) {
    int ends[2] = {-1, -1};
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    const UniqueFd far(ends[0]), near(ends[1]);
    LogOutput output(near.get());
    const std::string line(3000, 'y');
    for (int i = 0; output.dropped() == 0 && i < 100'000; ++i) {
        output.write(line);
    }
    ASSERT_GT(output.dropped(), 0u);
    std::string all;
    const auto drain = [&] {
        char bytes[65536];
        for (ssize_t got = 0; (got = ::recv(far.get(), bytes, sizeof bytes, MSG_DONTWAIT)) > 0;) {
            all.append(bytes, static_cast<size_t>(got));
        }
    };
    drain();
    output.write("last");
    drain();
    size_t begin = 0;
    for (size_t end = 0; (end = all.find('\n', begin)) != std::string::npos; begin = end + 1) {
        const std::string found = all.substr(begin, end - begin);
        EXPECT_TRUE(found == line || found == "last" || found.starts_with("warning: ")) << found.size();
    }
    EXPECT_TRUE(all.ends_with("\nlast\n"));
}

TEST(LogOutput, TruncatesLongLines) {
    Pipe pipe;
    LogOutput output(pipe.write_end.get());
    output.write(std::string(10'000, 'z'));
    EXPECT_EQ(pipe.read(), std::string(LogOutput::max_line - 1, 'z') + '\n');
}

TEST(LogOutput, DropsLinesAfterTheReaderHasClosed) {
    ::signal(SIGPIPE, SIG_IGN);
    Pipe pipe;
    LogOutput output(pipe.write_end.get());
    pipe.read_end.reset();
    output.write("lost");
    EXPECT_EQ(output.dropped(), 1u);
}

TEST(LineShares, NoneUsesUpWhatAllMayHave) {
    LineShares shares(20, 2, 10, 1);
    const TimePoint begin = Clock::now();
    EXPECT_EQ(shares.take("attacker", 100, begin), 10u);
    EXPECT_EQ(shares.take("attacker", 100, begin), 0u);
    EXPECT_EQ(shares.take("honest", 7, begin), 7u) << "what the attacker was refused takes nothing from others";
    EXPECT_EQ(shares.take("another", 100, begin), 3u) << "of twenty in all";
    EXPECT_EQ(shares.take_suppressed(), 3u);
    EXPECT_EQ(shares.take("attacker", 100, begin + seconds(3)), 3u);
    EXPECT_EQ(shares.take("honest", 100, begin + seconds(3)), 3u) << "of six that have come in all";
}

TEST(LineShares, WhatIsGivenBackMayBeTakenAgain) {
    LineShares shares(20, 0, 10, 0);
    const TimePoint begin = Clock::now();
    EXPECT_EQ(shares.take("one", 100, begin), 10u);
    shares.give_back("one", 4);
    EXPECT_EQ(shares.take("one", 100, begin), 4u);
    shares.give_back("one", 100);
    EXPECT_EQ(shares.take("one", 100, begin), 10u) << "no more than at first";
    EXPECT_EQ(shares.take("other", 100, begin), 10u);
}

TEST(LineShares, ManyCausesAreForgottenThatWereSilentLongest) {
    LineShares shares(1e6, 0, 1, 0);
    const TimePoint begin = Clock::now();
    EXPECT_TRUE(shares.admits("first", begin));
    EXPECT_FALSE(shares.admits("first", begin));
    for (int i = 1; i <= 5000; ++i) {
        EXPECT_TRUE(shares.admits(std::to_string(i), begin + seconds(i)));
    }
    EXPECT_FALSE(shares.admits("5000", begin + seconds(5001)));
    EXPECT_TRUE(shares.admits("first", begin + seconds(5002))) << "it is new again: memory is bounded";
}

TEST(LineLimit, AdmitsABurstThenARate) {
    LineLimit limit(10, 2);
    TimePoint now = TimePoint() + seconds(1000);
    const auto admitted = [&] {
        int count = 0;
        for (int i = 0; i < 50; ++i) {
            count += limit.admits(now) ? 1 : 0;
        }
        return count;
    };
    EXPECT_EQ(admitted(), 10);
    EXPECT_EQ(limit.take_suppressed(), 40u);
    EXPECT_EQ(limit.take_suppressed(), 0u);
    now += seconds(2);
    EXPECT_EQ(admitted(), 4);
    now += seconds(1000);
    EXPECT_EQ(admitted(), 10) << "at most the burst";
}

TEST(Timestamp, IsLocalTimeWithItsOffset) {
    const char * before = std::getenv("TZ");
    const std::string zone = before == nullptr ? "" : before;
    ::setenv("TZ", "XXX-05:30", 1);
    ::tzset();
    EXPECT_EQ(timestamp(std::chrono::system_clock::time_point(std::chrono::milliseconds(1'000'000'000'042))),
              "2001-09-09T07:16:40.042+05:30");
    ::setenv("TZ", "XXX3", 1);
    ::tzset();
    EXPECT_EQ(timestamp(std::chrono::system_clock::time_point(seconds(0))), "1969-12-31T21:00:00.000-03:00");
    before == nullptr ? ::unsetenv("TZ") : ::setenv("TZ", zone.c_str(), 1);
    ::tzset();
}

}  // namespace
}  // namespace caravan
