#include "client/session/program_clock.h"

#include <gtest/gtest.h>

#include <thread>

namespace caravan::client {
namespace {

// How long this thread's clock has stood still, at most and at least: the thread may be interrupted between two readings.
Clock::duration stood_still_at_most() {
    const TimePoint own = ProgramClock::now();
    return Clock::now() - own;
}

Clock::duration stood_still_at_least() {
    const TimePoint all = Clock::now();
    return all - ProgramClock::now();
}

TEST(ProgramClock, StandsStillInAPause) {
    const auto before = stood_still_at_least();
    TimePoint stopped_at;
    Clock::duration lasted{};
    {
        const ProgramClock::Pause pause;
        const TimePoint began = Clock::now();
        stopped_at = ProgramClock::now();
        std::this_thread::sleep_for(std::chrono::milliseconds(2));
        {
            const ProgramClock::Pause inner;
        }
        EXPECT_EQ(ProgramClock::now(), stopped_at) << "the inner pause ended it";
        lasted = Clock::now() - began;
    }
    EXPECT_GE(stood_still_at_most(), before + lasted);
    EXPECT_GE(ProgramClock::now(), stopped_at) << "the clock went back";
}

TEST(ProgramClock, CountsAWaitInAPauseOnce) {
    const TimePoint began = ProgramClock::now();
    {
        const ProgramClock::Pause pause;
        ProgramClock::add_wait(std::chrono::hours(1));
    }
    EXPECT_GE(ProgramClock::now(), began);
}

TEST(ProgramClock, StandsStillForEachThreadAlone) {
    const ProgramClock::Pause pause;
    std::thread([] {
        const TimePoint began = ProgramClock::now();
        std::this_thread::sleep_for(std::chrono::milliseconds(1));
        EXPECT_GE(ProgramClock::now() - began, std::chrono::milliseconds(1));
    }).join();
}

}  // namespace
}  // namespace caravan::client
