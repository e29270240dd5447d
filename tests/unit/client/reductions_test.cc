#include "client/session/reductions.h"

#include <gtest/gtest.h>

#include "support/scripted_session.h"

namespace caravan::client {
namespace {

using scripted::Session;
using scripted::native_hello;
using wire::SessionFacts;

Result<bool> supports_groups(const SessionFacts & facts) {
    Session session(native_hello());
    session.peer.reply(facts);
    auto supports = session->reductions().supports_groups();
    EXPECT_EQ(session->failed(), !supports);
    return supports;
}

TEST(Reductions, AreSupportedByServersOfTheSameVersion) {
    EXPECT_EQ(supports_groups({.has_cache = 0, .groups = wire::groups_version}), true);
    EXPECT_EQ(supports_groups({.has_cache = 1, .groups = wire::groups_version}), true);
    for (const uint8_t other : {0, wire::groups_version - 1, wire::groups_version + 1, 255}) {
        EXPECT_EQ(supports_groups({.groups = other}), false) << +other;
    }
}

TEST(Reductions, MalformedFactsEndTheSession) {
    const auto supports = supports_groups({.has_cache = 2, .groups = wire::groups_version});
    ASSERT_FALSE(supports);
    EXPECT_EQ(supports.error().code, Errc::protocol);
}

Result<wire::Algorithm> algorithm(const SessionFacts & facts, uint8_t reported, uint8_t sharing = 0) {
    Session session(native_hello());
    session.peer.reply(facts);
    session.peer.reply(wire::AlgorithmReply{.algorithm = reported, .sharing = sharing, .unused = {}});
    return session->reductions().algorithm(3, 4096).transform(
        [](const wire::AlgorithmReply & reply) { return static_cast<wire::Algorithm>(reply.algorithm); });
}

TEST(Reductions, ReportTheAlgorithm) {
    const SessionFacts facts{.groups = wire::groups_version, .finds_parts = 1, .reports_algorithm = 1};
    EXPECT_EQ(algorithm(facts, 0), wire::Algorithm::direct);
    EXPECT_EQ(algorithm(facts, 2), wire::Algorithm::scatter);
    EXPECT_EQ(algorithm(facts, 3).error().code, Errc::protocol);
    EXPECT_EQ(algorithm(facts, 0, 16).error().code, Errc::protocol);
    EXPECT_TRUE(algorithm(facts, 0, 15));
    EXPECT_EQ(algorithm(facts, wire::no_algorithm).error().code, Errc::unsupported);
}

TEST(Reductions, OlderServersAreNotAskedForTheAlgorithm) {
    EXPECT_EQ(algorithm({.groups = wire::groups_version}, 0).error().code, Errc::unsupported);
}

}  // namespace
}  // namespace caravan::client
