#include "client/session/launch_prediction.h"

#include <gtest/gtest.h>

namespace caravan::client {
namespace {

constexpr TimePoint start{};
constexpr auto late = LaunchPrediction::immediate_read_limit;

ResultRead read_of(size_t size) { return {{}, {64, 64 + size}, 0, size}; }

struct LaunchPredictionTest : testing::Test {
    // One launch of the graph, as Connection reports it.
    void launch(KeptGraph * kept, TimePoint now = start) {
        prediction.end_launch();
        prediction.begin_launch();
        prediction.launched(kept, now);
    }

    LaunchPrediction prediction;
    KeptGraph graph, other;
};

TEST_F(LaunchPredictionTest, ReadThatFollowedWithoutDelayIsPredicted) {
    launch(&graph);
    EXPECT_EQ(prediction.predicted_read(), nullptr) << "a new graph";
    prediction.record_habit(read_of(16), start + late - microseconds(1));
    launch(&graph);
    ASSERT_NE(prediction.predicted_read(), nullptr);
    EXPECT_EQ(*prediction.predicted_read(), read_of(16));
    EXPECT_FALSE(prediction.should_confirm()) << "the read confirms the launch";
    prediction.record_habit(read_of(16), start + late);
    launch(&graph);
    EXPECT_EQ(prediction.predicted_read(), nullptr) << "the program did something else first";
}

TEST_F(LaunchPredictionTest, AnyOtherCommandForgetsTheHabit) {
    launch(&graph);
    prediction.record_habit(read_of(16), start);
    launch(&graph);
    EXPECT_FALSE(prediction.end_launch()) << "it was not held";
    launch(&graph);
    EXPECT_EQ(prediction.predicted_read(), nullptr);
}

TEST_F(LaunchPredictionTest, GraphsHaveTheirOwnHabits) {
    launch(&graph);
    prediction.record_habit(read_of(16), start);
    launch(&other);
    EXPECT_EQ(prediction.predicted_read(), nullptr);
    prediction.record_habit(read_of(32), start);
    launch(&graph);
    EXPECT_EQ(*prediction.predicted_read(), read_of(16));
}

TEST_F(LaunchPredictionTest, LaunchIsHeldForAPushOrARelay) {
    launch(&graph);
    EXPECT_FALSE(prediction.hold()) << "unknown";
    prediction.record_habit(std::nullopt, start);
    launch(&graph);
    EXPECT_TRUE(prediction.hold());
    prediction.record_habit(std::nullopt, start);
    EXPECT_FALSE(prediction.end_launch()) << "the push has sent it";
    launch(&graph);
    EXPECT_TRUE(prediction.hold());
    EXPECT_TRUE(prediction.end_launch()) << "another command follows: send the launch first";
    launch(&graph);
    EXPECT_FALSE(prediction.hold());
}

TEST_F(LaunchPredictionTest, GraphThatIsNotStoredIsNeitherHeldNorConfirmed) {
    launch(nullptr);
    EXPECT_EQ(prediction.predicted_read(), nullptr);
    EXPECT_FALSE(prediction.should_confirm());
    EXPECT_FALSE(prediction.hold());
    prediction.record_habit(read_of(16), start);
}

TEST_F(LaunchPredictionTest, NewGraphsAreConfirmedUnlessManyShortOnesFollowEachOther) {
    for (const auto result_time : {LaunchPrediction::short_step, LaunchPrediction::short_step - milliseconds(1)}) {
        LaunchPrediction fresh;
        prediction = fresh;
        for (int i = 0; i < LaunchPrediction::max_new_graphs; ++i) {
            launch(&graph);
            EXPECT_TRUE(prediction.should_confirm()) << i;
            prediction.result_arrived(result_time, start + result_time);
        }
        launch(&graph);
        EXPECT_EQ(prediction.should_confirm(), result_time == LaunchPrediction::short_step);
        prediction.record_habit(read_of(16), start);
        launch(&graph);
        EXPECT_NE(prediction.predicted_read(), nullptr);
        launch(&other);
        EXPECT_TRUE(prediction.should_confirm()) << "a graph with a habit ends the row";
        graph = other = {};
    }
}

TEST_F(LaunchPredictionTest, LaunchBeforeTheLastReadWasAwaitedIsQueued) {
    launch(&graph);
    prediction.record_read(5);
    prediction.record_habit(read_of(16), start);
    launch(&graph);
    EXPECT_EQ(prediction.predicted_read(), nullptr) << "several batches are in flight";
    launch(&other);
    EXPECT_TRUE(prediction.should_confirm());
    prediction.record_read(6);
    prediction.record_habit(read_of(16), start);
    prediction.record_await(6);
    launch(&other);
    EXPECT_NE(prediction.predicted_read(), nullptr);
    prediction.record_read(7);
    launch(&graph);
    EXPECT_FALSE(prediction.should_confirm());
}

TEST_F(LaunchPredictionTest, PrefetchIsTakenByTheSameReadOrDiscarded) {
    launch(&graph);
    prediction.record_habit(read_of(16), start);
    launch(&graph);
    EXPECT_FALSE(prediction.has_prefetched());
    prediction.prefetch(*prediction.predicted_read());
    EXPECT_TRUE(prediction.has_prefetched());
    EXPECT_TRUE(prediction.is_prefetched(read_of(16)));
    EXPECT_FALSE(prediction.is_prefetched(read_of(8)));
    prediction.take_prefetched();
    EXPECT_FALSE(prediction.has_prefetched());
    launch(&graph);
    ASSERT_NE(prediction.predicted_read(), nullptr) << "the habit stays";
    prediction.prefetch(*prediction.predicted_read());
    prediction.discard_prefetched();
    EXPECT_FALSE(prediction.has_prefetched());
    launch(&graph);
    EXPECT_EQ(prediction.predicted_read(), nullptr) << "a misprediction costs once";
}

}  // namespace
}  // namespace caravan::client
