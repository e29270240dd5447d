#include "client/observe/trace.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <nlohmann/json.hpp>
#include <optional>
#include <string>

#include "base/log.h"
#include "support/temporary_folder.h"

namespace caravan::client {
namespace {

struct TraceTest : testing::Test {
    // GGML_RPC_TRACE is read once, so each test needs a process of its own.
    void SetUp() override { GTEST_FLAG_SET(death_test_style, "threadsafe"); }
};

// Records spans and prints the events of the file, one a line: name, process, line, time and duration in µs.
[[noreturn]] void record_and_print() {
    std::optional<test::TemporaryFolder> folder(std::in_place);
    const std::string file = *folder / "trace.json";
    ::setenv("GGML_RPC_TRACE", file.c_str(), 1);
    Trace & trace = Trace::instance();
    if (!trace.is_on()) {
        ::_exit(1);
    }
    trace.add_own("send", "b:1", 1'000, 3'500);
    trace.add_own("wait", "a\"b:1", 4'000, 3'000);  // ends before it begins
    trace.add_remote("LAUNCH", "b:1", 2, 2'000, 3'000);
    trace.write();
    trace.write();  // the file is written again, whole
    std::ifstream in(file);
    for (const auto & event : nlohmann::json::parse(in)["traceEvents"]) {
        if (event["ph"] == "X") {
            std::fprintf(stderr, "%s %d/%d %g+%g\n", event["name"].get<std::string>().c_str(), event["pid"].get<int>(),
                         event["tid"].get<int>(), event["ts"].get<double>(), event["dur"].get<double>());
        } else if (event["name"] == "process_name") {
            std::fprintf(stderr, "%d=%s\n", event["pid"].get<int>(), event["args"]["name"].get<std::string>().c_str());
        }
    }
    folder.reset();
    ::_exit(0);
}

TEST_F(TraceTest, WritesSpansOfBothSidesByServer) {
    EXPECT_EXIT(record_and_print(), testing::ExitedWithCode(0),
                "0=client\n1=server b:1\n2=server a\"b:1\nsend 0/1 1.2.5\nwait 0/2 4.0\nLAUNCH 1/2 2.1\n");
}

TEST_F(TraceTest, UnwritableFileIsReported) {
    EXPECT_EXIT(
        {
            set_log_sink(
                [](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
            ::setenv("GGML_RPC_TRACE", "/no/such/folder/trace.json", 1);
            Trace::instance().add_own("send", "b:1", 1, 2);
            Trace::instance().write();
            ::_exit(0);
        },
        testing::ExitedWithCode(0), "GGML_RPC_TRACE: cannot write /no/such/folder/trace.json");
}

}  // namespace
}  // namespace caravan::client
