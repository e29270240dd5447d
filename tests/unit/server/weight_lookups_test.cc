#include "server/session/weight_lookups.h"

#include <gtest/gtest.h>

#include "cache/digest.h"
#include "support/session_parts.h"
#include "support/temporary_folder.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using test::noise;

constexpr uint32_t count = 400'000;  // floats of each weight

std::vector<std::byte> digest_of(ConstBytes data) {
    cache::Blake3 digest;
    digest.update(data);
    const auto bytes = digest.bytes();
    return {bytes.begin(), bytes.end()};
}

struct WeightLookupsTest : testing::Test {
    void keep(const std::vector<std::byte> & data) {
        auto writer = weights.begin(data.size(), cache::Keys::digest_and_fnv);
        ASSERT_TRUE(writer);
        writer->append(data);
        ASSERT_TRUE(writer->commit());
    }
    Result<> find(uint64_t offset, const std::vector<std::byte> & data) {
        auto target = session.region(offset, count);
        return lookups.find_digest(target, data.size(), digest_of(data));
    }

    const test::TemporaryFolder folder;
    cache::Weights weights{cache::WeightOptions{.directory = folder.path(), .keep = true}};
    test::SessionParts session{MemoryBudget::no_limit, &weights, 8 << 20};
    WeightLookups & lookups = session.context.lookups;
    const std::vector<std::byte> kept = noise(count * 4), other = noise(count * 4, 2);
};

TEST_F(WeightLookupsTest, StockHashLoadsTheBytes) {
    keep(kept);
    auto target = session.region(0, count);
    EXPECT_TRUE(lookups.find_fnv(target, kept.size(), wire::fnv1a(kept)).value());
    EXPECT_EQ(session.bytes(kept.size()), kept);
    EXPECT_EQ(lookups.bytes_from_cache(), kept.size());
    EXPECT_FALSE(lookups.find_fnv(target, other.size(), wire::fnv1a(other)).value());
}

TEST_F(WeightLookupsTest, FindsAreAnsweredInOrderAndNotBefore) {
    keep(kept);
    session.context.stale.mark(session.buffer, session.buffer + 4);
    ASSERT_TRUE(find(0, kept));
    ASSERT_TRUE(find(4 << 20, other));
    if (std::thread::hardware_concurrency() > 1) {
        EXPECT_TRUE(session.nothing_was_sent());
    }
    ASSERT_TRUE(lookups.reply_to_finds());
    for (const uint8_t found : {1, 0}) {
        EXPECT_EQ(session.peer.receive(9), test::operator+(bytes_of(uint64_t{1}), bytes_of(found)));
    }
    EXPECT_EQ(session.bytes(kept.size()), kept);
    EXPECT_TRUE(session.context.stale.empty()) << "the weight has replaced stale bytes";
    ASSERT_TRUE(lookups.reply_to_finds());
    EXPECT_TRUE(session.nothing_was_sent()) << "each find has one reply";
}

TEST_F(WeightLookupsTest, PartIsFoundByItsOwnDigestAndByTheTensors) {
    const cache::Rows rows{64, 1000, 1100, 1200};
    std::vector<std::byte> part(rows.bytes());
    cache::copy_packed(rows, 0, ConstBytes(kept).subspan(rows.offset), part);
    const auto find_part = [&](ConstBytes bytes, const std::vector<std::byte> & tensor) {
        auto target = session.region(0, count);
        EXPECT_TRUE(lookups.find_part(target, rows, digest_of(bytes), digest_of(tensor), tensor.size()));
        EXPECT_TRUE(lookups.reply_to_finds());
        return session.peer.receive(9).back() == std::byte{1};
    };
    EXPECT_FALSE(find_part(part, kept)) << "nothing is there";
    keep(kept);
    EXPECT_TRUE(find_part(part, kept));
    EXPECT_TRUE(session.bytes(part.size()) == part);
    EXPECT_FALSE(find_part(part, other));
    EXPECT_FALSE(find_part(other, kept)) << "these bytes are no such part";
    EXPECT_TRUE(session.bytes(part.size()) == std::vector<std::byte>(part.size())) << "the client may not have them";
    EXPECT_TRUE(find_part(part, kept)) << "a client's error does not remove a blob";
    keep(part);
    EXPECT_TRUE(find_part(part, other)) << "by its own digest";
    EXPECT_EQ(lookups.bytes_from_cache(), 3 * part.size());
}

TEST_F(WeightLookupsTest, NothingIsFoundWithoutACache) {
    test::SessionParts plain;
    WeightLookups & none = plain.context.lookups;
    EXPECT_FALSE(none.has_cache());
    auto target = plain.region(0, 4);
    EXPECT_FALSE(none.find_fnv(target, 16, 1).value());
    ASSERT_TRUE(none.find_digest(target, 16, digest_of(kept)));
    ASSERT_TRUE(none.reply_to_finds());
    EXPECT_EQ(plain.peer.receive(9).back(), std::byte{0});
}

}  // namespace
}  // namespace caravan::server
