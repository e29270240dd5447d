#include "client/session/server_links.h"

#include <gtest/gtest.h>

#include "support/scripted_session.h"

namespace caravan::client {
namespace {

TEST(ServerLinks, EachLinkIsMadeOnce) {
    ServerLinks links;
    int made = 0;
    const auto make = [&]() -> Result<ServerLink> { return ServerLink{.token = 70u + ++made, .number = 3, .source = {}}; };
    EXPECT_EQ(links.link_from(1, make).token, 71u);
    EXPECT_EQ(links.link_from(1, make).token, 71u);
    EXPECT_EQ(links.link_from(2, make).token, 72u) << "another source";
    EXPECT_EQ(links.link_from(1, make).number, 3);
    EXPECT_EQ(made, 2);
}

TEST(ServerLinks, FailedAttemptIsRemembered) {
    ServerLinks links;
    int attempts = 0;
    const auto make = [&]() -> Result<ServerLink> {
        ++attempts;
        return fail(Errc::unavailable, "no route");
    };
    EXPECT_EQ(links.link_from(1, make).token, 0u);
    EXPECT_EQ(links.link_from(1, make).token, 0u);
    EXPECT_EQ(attempts, 1);
}

TEST(ServerLinks, StaleLinksAreMadeAgain) {
    ServerLinks links;
    uint64_t token = 7;
    const auto make = [&]() -> Result<ServerLink> { return ServerLink{.token = token, .number = 0, .source = {}}; };
    EXPECT_EQ(links.link_from(1, make).token, 7u);
    token = 8;
    links.mark_stale();
    EXPECT_EQ(links.link_from(1, make).token, 8u);
    token = 9;
    EXPECT_EQ(links.link_from(1, make).token, 8u) << "made again once";
}

TEST(ServerLinks, SourcesAreThoseThatLive) {
    ServerLinks links;
    scripted::Session session;
    links.link_from(1, [&]() -> Result<ServerLink> { return ServerLink{7, 0, *session.connection}; });
    links.link_from(2, []() -> Result<ServerLink> { return fail(Errc::unavailable, "no route"); });
    ASSERT_EQ(links.sources().size(), 1u);
    EXPECT_EQ(links.sources().front(), *session.connection);
    session.connection = fail(Errc::io, "closed");
    EXPECT_TRUE(links.sources().empty()) << "a link does not keep its source alive";
}

}  // namespace
}  // namespace caravan::client
