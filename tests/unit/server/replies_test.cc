#include "server/session/replies.h"

#include <gtest/gtest.h>

#include "support/session_parts.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using test::text_of;
using test::operator+;

struct RepliesTest : testing::Test {
    uint64_t receive_head() { return load<uint64_t>(session.peer.receive(8).data()); }

    test::SessionParts session;
    Replies replies{*session.transport};
};

TEST_F(RepliesTest, ReplyHasItsSizeInFront) {
    ASSERT_TRUE(replies.send(uint32_t{7}));
    EXPECT_EQ(session.peer.receive(12), bytes_of(uint64_t{4}) + bytes_of(uint32_t{7}));
    ASSERT_TRUE(replies.begin(8, bytes_of(uint32_t{1})));
    ASSERT_TRUE(replies.append(bytes_of(uint32_t{2})));
    EXPECT_EQ(session.peer.receive(16), bytes_of(uint64_t{8}) + bytes_of(uint32_t{1}) + bytes_of(uint32_t{2}));
    EXPECT_EQ(replies.bytes_sent(), 28u);
}

TEST_F(RepliesTest, FailedLaunchEndsStockSession) {
    const auto reported = replies.report_failure(fail(Errc::no_memory, "too large"));
    ASSERT_FALSE(reported);
    EXPECT_EQ(reported.error().text, "too large");
    EXPECT_TRUE(session.nothing_was_sent()) << "the stock dialect has no message for it";
}

TEST_F(RepliesTest, FailedLaunchIsReportedToNativeClient) {
    replies.set_native();
    ASSERT_TRUE(replies.report_failure({}));
    EXPECT_TRUE(session.nothing_was_sent());
    ASSERT_TRUE(replies.report_failure(fail(Errc::no_memory, "too large"))) << "the session continues";
    const uint64_t head = receive_head();
    EXPECT_EQ(static_cast<wire::ReplyKind>(head >> wire::reply_kind_shift), wire::ReplyKind::launch_failed);
    EXPECT_EQ(text_of(session.peer.receive(head & wire::reply_size_mask)), "too large");
}

TEST_F(RepliesTest, LongTextIsTruncated) {
    ASSERT_TRUE(replies.send_text(wire::ReplyKind::refused, std::string(5000, 'x')));
    EXPECT_EQ(receive_head() & wire::reply_size_mask, wire::max_error_text);
}

}  // namespace
}  // namespace caravan::server
