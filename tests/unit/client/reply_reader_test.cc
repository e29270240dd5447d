// Without a transport: the test delivers bytes in pieces.
#include "client/session/reply_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <deque>

#include "support/wire_peer.h"
#include "wire/native.h"

namespace caravan::client {
namespace {

using test::bytes_of;
using test::operator+;
using Absent = ReplyReader::Absent;

std::vector<std::byte> reply_of(std::string_view text) { return bytes_of(uint64_t{text.size()}) + bytes_of(text); }
std::vector<std::byte> text_of_kind(wire::ReplyKind kind, std::string_view text) {
    return bytes_of(uint64_t{text.size()} | uint64_t{static_cast<uint8_t>(kind)} << wire::reply_kind_shift) + bytes_of(text);
}

struct ReplyReaderTest : testing::Test {
    void arrive(const std::vector<std::byte> & bytes) { inbox.insert(inbox.end(), bytes.begin(), bytes.end()); }
    void expect(std::string & dest, bool may_be_refused = false) {
        reader.expect({mutable_bytes(dest.data(), dest.size()), dest.size(), may_be_refused});
    }
    void expect_data(std::string & dest) {
        reader.expect({mutable_bytes(dest.data(), dest.size()), dest.size(), false, true, Absent::nan});
    }

    std::deque<std::byte> inbox;
    size_t most = SIZE_MAX;  // bytes that one call delivers
    ReplyReader reader{[this](std::span<const MutableBytes> parts) -> Result<size_t> {
        size_t total = 0;
        for (const MutableBytes part : parts) {
            const size_t step = std::min({part.size(), inbox.size(), most - total});
            std::copy_n(inbox.begin(), step, part.begin());
            inbox.erase(inbox.begin(), inbox.begin() + static_cast<ptrdiff_t>(step));
            total += step;
        }
        return total;
    }};
};

TEST_F(ReplyReaderTest, ReceivesInOrderIntoTheGivenMemory) {
    std::string first(3, '?'), empty, last(5, '?');
    expect(first);
    expect(empty);
    expect(last);
    arrive(reply_of("abc") + reply_of("") + reply_of("defgh"));
    arrive(bytes_of(uint8_t{9}));  // of a reply that nobody expects
    EXPECT_TRUE(reader.pull().moved);
    EXPECT_EQ(first + last, "abcdefgh");
    EXPECT_EQ(reader.completed(), 3u);
    EXPECT_TRUE(reader.is_idle());
    EXPECT_FALSE(reader.wants_input());
    EXPECT_EQ(inbox.size(), 1u) << "nothing beyond is received";
}

TEST_F(ReplyReaderTest, ReceivesInPiecesOfAnySize) {
    for (most = 1; most < 20; ++most) {
        std::string first(3, '?'), last(5, '?');
        expect(first);
        expect(last);
        arrive(reply_of("abc") + reply_of("defgh"));
        while (!reader.is_idle()) {
            ASSERT_FALSE(reader.pull().error);
        }
        EXPECT_EQ(first + last, "abcdefgh") << most;
        EXPECT_FALSE(reader.pull().moved);
    }
}

TEST_F(ReplyReaderTest, CountsRepliesThatBeginOrEnd) {
    std::string dest(3, '?');
    expect(dest);
    most = 9;
    arrive(reply_of("abc"));
    reader.pull();
    EXPECT_EQ(reader.milestones(), 2u);
}

TEST_F(ReplyReaderTest, ReplyOfAnotherSizeIsAnError) {
    std::string dest(3, '?');
    expect(dest);
    arrive(reply_of("abcd"));
    const auto progress = reader.pull();
    ASSERT_TRUE(progress.error);
    EXPECT_EQ(progress.error->code, Errc::protocol);
}

TEST_F(ReplyReaderTest, DeferredReplyWaitsForItsDestination) {
    reader.expect_deferred(4);
    EXPECT_EQ(reader.deferred(), 1u);
    arrive(reply_of("data"));
    reader.pull();
    EXPECT_TRUE(reader.has_begun(1));
    EXPECT_FALSE(reader.wants_input()) << "the rest has no place";
    EXPECT_EQ(reader.completed(), 0u);
    std::string dest(4, '?');
    EXPECT_TRUE(reader.set_destination(mutable_bytes(dest.data(), 4), Absent::nan));
    reader.pull();
    EXPECT_EQ(dest, "data");
    EXPECT_EQ(reader.completed(), 1u);
    EXPECT_EQ(reader.deferred(), 0u);
}

TEST_F(ReplyReaderTest, DiscardedReplyIsReceivedAndDropped) {
    std::string next(4, '?');
    EXPECT_FALSE(reader.discard()) << "there is none";
    reader.expect_deferred(4);
    EXPECT_TRUE(reader.discard());
    expect(next);
    arrive(reply_of("drop") + reply_of("next"));
    reader.pull();
    EXPECT_EQ(next, "next");
    EXPECT_EQ(reader.completed(), 2u);
}

TEST_F(ReplyReaderTest, RefusalReplacesAReplyThatMayBeRefused) {
    std::string dest(4, '?'), next(4, '?');
    expect(dest, true);
    expect(next);
    arrive(text_of_kind(wire::ReplyKind::refused, "no") + reply_of("next"));
    EXPECT_FALSE(reader.pull().error);
    EXPECT_EQ(dest, std::string(4, '\0'));
    EXPECT_EQ(next, "next");
    EXPECT_EQ(reader.take_refusal(), "no");
    EXPECT_FALSE(reader.take_refusal()) << "returned once";
    expect(dest);
    arrive(text_of_kind(wire::ReplyKind::refused, "no"));
    EXPECT_TRUE(reader.pull().error);
}

TEST_F(ReplyReaderTest, DataIsAbsentAfterAFailedLaunch) {
    std::string before(4, '?'), behind(4, '?'), count(4, '?'), later(4, '?');
    reader.count_launch();
    expect_data(before);
    expect_data(behind);
    expect(count);
    arrive(reply_of("good") + text_of_kind(wire::ReplyKind::launch_failed, "no") + reply_of("data") + reply_of("same"));
    reader.pull();
    EXPECT_EQ(before, "good");
    EXPECT_EQ(behind, std::string(4, '\xff'));
    EXPECT_EQ(count, "same") << "not data of a tensor";
    EXPECT_TRUE(reader.has_launch_failure());
    EXPECT_EQ(reader.take_launch_failure(), "no");
    expect_data(later);
    arrive(reply_of("data"));
    reader.pull();
    EXPECT_EQ(later, "data");
}

TEST_F(ReplyReaderTest, MoreFailuresThanLaunchesAreAnError) {
    std::string dest(4, '?');
    reader.count_launch();
    expect(dest);
    arrive(text_of_kind(wire::ReplyKind::launch_failed, "one") + text_of_kind(wire::ReplyKind::launch_failed, "two"));
    EXPECT_TRUE(reader.pull().error);
}

TEST_F(ReplyReaderTest, FirstLaunchFailureIsKept) {
    reader.set_launch_failure("first");
    reader.set_launch_failure("second");
    EXPECT_EQ(reader.take_launch_failure(), "first");
}

TEST_F(ReplyReaderTest, TextsAreReceivedWithoutAPendingReply) {
    reader.count_launch();
    const auto text = text_of_kind(wire::ReplyKind::launch_failed, "no");
    arrive({text.begin(), text.begin() + 9});
    EXPECT_FALSE(reader.read_unsolicited());
    EXPECT_FALSE(reader.has_launch_failure()) << "it is incomplete";
    arrive({text.begin() + 9, text.end()});
    EXPECT_FALSE(reader.read_unsolicited());
    EXPECT_TRUE(reader.has_launch_failure());
    arrive(text_of_kind(wire::ReplyKind::ended, "bye"));
    const auto error = reader.read_unsolicited();
    ASSERT_TRUE(error);
    EXPECT_TRUE(error->text.ends_with("bye"));
}

TEST_F(ReplyReaderTest, BytesThatArriveTooEarlyBelongToTheNextReply) {
    arrive(reply_of("early"));
    EXPECT_FALSE(reader.read_unsolicited());
    std::string dest(5, '?');
    expect(dest);
    reader.pull();
    EXPECT_EQ(dest, "early");
}

TEST_F(ReplyReaderTest, CloseMakesAllRepliesAbsent) {
    std::string pending(4, '?'), later(4, '?'), deferred(4, '?');
    expect_data(pending);
    reader.close();
    expect(later);
    reader.expect_deferred(4);
    EXPECT_FALSE(reader.set_destination(mutable_bytes(deferred.data(), 4), Absent::nan));
    EXPECT_EQ(pending + later + deferred, std::string(4, '\xff') + std::string(4, '\0') + std::string(4, '\xff'));
    EXPECT_EQ(reader.completed(), 3u);
    EXPECT_TRUE(reader.is_idle());
}

}  // namespace
}  // namespace caravan::client
