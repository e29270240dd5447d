#include "client/session/outbox.h"

#include <gtest/gtest.h>

#include <array>
#include <cstring>
#include <string>

#include "support/wire_peer.h"

namespace caravan::client {
namespace {

using test::bytes_of;
using test::text_of;

void append(Outbox & outbox, std::string_view text) {
    std::memcpy(outbox.append(text.size()).data(), text.data(), text.size());
}

// Sends at most `most` bytes, in up to `parts` parts.
std::string send(Outbox & outbox, size_t most = SIZE_MAX, size_t parts = 8) {
    std::array<ConstBytes, 8> room;
    std::string out;
    const size_t count = outbox.next_parts(std::span(room).first(parts));
    for (size_t i = 0; i < count; ++i) {
        out += text_of(room[i].first(std::min(room[i].size(), most - out.size())));
    }
    outbox.mark_sent(out.size());
    return out;
}

TEST(Outbox, SendsInOrderAndInPieces) {
    Outbox outbox;
    EXPECT_FALSE(outbox.is_ready());
    EXPECT_EQ(send(outbox), "");
    const auto payload = bytes_of(std::string_view("payload"));
    append(outbox, "head");
    append(outbox, "er:");
    outbox.append_external(payload);
    outbox.append_external({});
    append(outbox, "next");
    EXPECT_EQ(outbox.queued(), 18u);
    EXPECT_TRUE(outbox.is_ready());
    EXPECT_EQ(send(outbox, 5), "heade");
    EXPECT_EQ(send(outbox, 4), "r:pa");
    EXPECT_EQ(outbox.sent(), 9u);
    EXPECT_EQ(send(outbox, SIZE_MAX, 1), "yload") << "one part";
    append(outbox, "!");
    EXPECT_EQ(send(outbox), "next!");
    EXPECT_FALSE(outbox.is_ready());
    EXPECT_EQ(outbox.sent(), outbox.queued());
}

TEST(Outbox, NothingFromTheMessageOfAHoleOnIsSent) {
    Outbox outbox;
    append(outbox, "abc");
    const uint64_t first = outbox.queued();
    append(outbox, "[");  // the header of the message
    std::vector<std::byte> one(2), two(1, std::byte{'2'});
    std::byte * memory = one.data();
    outbox.append_hole(first, std::move(one));
    const uint64_t second = outbox.queued();
    outbox.append_hole(second, std::move(two));
    append(outbox, "]");
    EXPECT_EQ(send(outbox), "abc");
    EXPECT_FALSE(outbox.is_ready());
    outbox.fill(second);
    EXPECT_EQ(send(outbox), "") << "the first one is open";
    std::memcpy(memory, "xy", 2);  // its memory was not moved
    outbox.fill(first);
    EXPECT_EQ(send(outbox), "[xy2]");
}

TEST(Outbox, CloseDropsEverythingButTheMemoryOfHoles) {
    Outbox outbox;
    append(outbox, "abc");
    std::vector<std::byte> hole(64);
    std::byte * memory = hole.data();
    outbox.append_hole(outbox.queued(), std::move(hole));
    outbox.close();
    EXPECT_FALSE(outbox.is_ready());
    EXPECT_EQ(outbox.sent(), outbox.queued());
    EXPECT_EQ(send(outbox), "");
    std::memset(memory, 1, 64);  // AddressSanitizer checks it
    append(outbox, "later");
    EXPECT_EQ(send(outbox), "later");
}

}  // namespace
}  // namespace caravan::client
