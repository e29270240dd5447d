#include "client/session/session_history.h"

#include <gtest/gtest.h>

#include <cstdio>
#include <string>
#include <vector>

#include "base/log.h"
#include "client/session/connection.h"

namespace caravan::client {
namespace {

SessionRecord record_of(uint64_t number, std::string dialect) {
    return {.number = number, .state = SessionRecord::State::closed, .stats = {.endpoint = {}, .dialect = std::move(dialect)}};
}

TEST(SessionHistory, NumbersSessionsFromOne) {
    SessionHistory history;
    EXPECT_EQ(history.begin(), 1u);
    EXPECT_EQ(history.begin(), 2u);
    EXPECT_FALSE(history.latest()) << "none was opened";
}

TEST(SessionHistory, KeepsTheLatestSessionThatEnded) {
    SessionHistory history;
    history.end(record_of(1, "stock"));
    EXPECT_EQ(history.latest().value().stats.dialect, "stock");
    history.end(record_of(3, "native"));
    history.end(record_of(2, "stock"));  // a lost session, whose buffers the program freed late
    EXPECT_EQ(history.latest().value().number, 3u);
    EXPECT_EQ(history.latest().value().stats.dialect, "native");
}

TEST(SessionHistory, NotifiesTheLastCallbackOnly) {
    SessionHistory history;
    std::vector<std::string> notified;
    history.notify_loss({Errc::closed, "before"});
    history.set_loss_callback([&](const Error & error) { notified.push_back("first: " + error.text); });
    history.notify_loss({Errc::closed, "one"});
    history.set_loss_callback([&](const Error & error) { notified.push_back("second: " + error.text); });
    history.notify_loss({Errc::closed, "two"});
    history.set_loss_callback({});
    history.notify_loss({Errc::closed, "three"});
    EXPECT_EQ(notified, (std::vector<std::string>{"first: one", "second: two"}));
}

TEST(LossReport, ReportsOnceAndOnlyWhileNeeded) {
    const auto history = std::make_shared<SessionHistory>();
    int count = 0;
    history->set_loss_callback([&](const Error &) { ++count; });
    const net::Endpoint endpoint = net::parse_endpoint("127.0.0.1:1").value();
    LossReport report(endpoint, true, history);
    report.report({Errc::closed, "the peer closed the connection"});
    report.report({Errc::reset, "the connection was reset"});
    EXPECT_EQ(count, 1);
    LossReport needless(endpoint, false, history);
    needless.report({Errc::closed, "the peer closed the connection"});
    LossReport ended(endpoint, true, history);
    ended.disable();
    ended.report({Errc::closed, "the peer closed the connection"});
    EXPECT_EQ(count, 1);
    LossReport without_history(endpoint, true, nullptr);
    without_history.report({Errc::closed, "the peer closed the connection"});
}

TEST(LossReport, RepeatsTheReasonNowAndThen) {
    static std::vector<std::string> lines;
    lines.clear();
    set_log_sink([](LogLevel, std::string_view line) { lines.emplace_back(line); });
    LossReport report(net::parse_endpoint("127.0.0.1:1").value(), true, nullptr);
    const Error reason{Errc::closed, "the peer closed the connection"};
    report.repeat(reason, Clock::now() + seconds(3600));
    EXPECT_EQ(lines, std::vector<std::string>{}) << "nothing was reported";
    report.report(reason);
    lines.clear();
    const TimePoint lost_at = Clock::now();
    report.repeat(reason, lost_at + seconds(5));
    EXPECT_EQ(lines, std::vector<std::string>{});
    report.repeat(reason, lost_at + seconds(11));
    report.repeat(reason, lost_at + seconds(12));
    EXPECT_EQ(lines, std::vector<std::string>{"RPC server 127.0.0.1:1: graph not computed: the server was lost (the peer closed "
                                              "the connection)"});
    report.repeat(reason, lost_at + seconds(22));
    EXPECT_EQ(lines.size(), 2u);
    report.disable();
    report.repeat(reason, lost_at + seconds(99));
    EXPECT_EQ(lines.size(), 2u);
    set_log_sink([](LogLevel, std::string_view line) { std::fprintf(stderr, "%s\n", std::string(line).c_str()); });
}

}  // namespace
}  // namespace caravan::client
