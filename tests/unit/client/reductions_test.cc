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

}  // namespace
}  // namespace caravan::client
