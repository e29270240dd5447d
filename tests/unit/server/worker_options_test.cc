#include "server/ipc/worker_options.h"

#include <gtest/gtest.h>

namespace caravan::server {
namespace {

TEST(WorkerOptionsTest, ArgumentsTransferAllOptionsOfAWorker) {
    WorkerOptions options;
    options.devices = {"CUDA0", "CPU"};
    options.threads = 7;
    options.session_grace = seconds(11);
    options.links = net::Networks::parse("10.0.0.0/8,fd00::/8").value();
    options.local_links = true;
    options.max_memory = 1 << 30;
    options.weights = {.directory = "/a b", .keep = true, .max_bytes = 5, .model_dirs = {"/m", "--cache"}};
    options.confined = false;
    const auto parsed = from_arguments(to_arguments(options));
    ASSERT_TRUE(parsed) << parsed.error().text;
    EXPECT_EQ(parsed->devices, options.devices);
    EXPECT_EQ(parsed->threads, 7);
    EXPECT_EQ(parsed->session_grace, seconds(11));
    EXPECT_EQ(parsed->links, options.links);
    EXPECT_TRUE(parsed->local_links);
    EXPECT_EQ(parsed->max_memory, 1u << 30);
    EXPECT_EQ(parsed->weights.directory, "/a b");
    EXPECT_TRUE(parsed->weights.keep);
    EXPECT_EQ(parsed->weights.max_bytes, 5u);
    EXPECT_EQ(parsed->weights.model_dirs, options.weights.model_dirs);
    EXPECT_FALSE(parsed->confined);
}

TEST(WorkerOptionsTest, DefaultsAreSafe) {
    const auto parsed = from_arguments(to_arguments({}));
    ASSERT_TRUE(parsed);
    EXPECT_TRUE(parsed->confined);
    EXPECT_FALSE(parsed->links || parsed->local_links || parsed->weights.keep);
    EXPECT_EQ(parsed->max_memory, WorkerOptions::no_limit);
}

TEST(WorkerOptionsTest, UnknownAndInvalidArgumentsAreRefused) {
    using Arguments = std::vector<std::string>;
    for (const Arguments & wrong :
         {Arguments{"--unknown"}, Arguments{"--unknown", "1"}, Arguments{"--threads"}, Arguments{"--threads", "0"},
          Arguments{"--threads", "2x"}, Arguments{"--session-grace", "-1"}, Arguments{"--links", "nowhere"},
          Arguments{"--max-memory", ""}}) {
        EXPECT_FALSE(from_arguments(wrong)) << wrong.front();
    }
}

}  // namespace
}  // namespace caravan::server
