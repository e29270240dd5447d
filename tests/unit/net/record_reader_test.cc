#include "net/resume/record_reader.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <array>

#include "support/wire_peer.h"
#include "wire/record_check.h"

namespace caravan::net {
namespace {

using test::bytes_of;
using test::noise;
using test::operator+;
using Kind = RecordReader::Failure::Kind;

// Delivers `inbox` in pieces of at most `most` bytes.
struct Source final : Transport {
    Result<size_t> send(std::span<const ConstBytes>) override { return 0; }
    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        if (is_broken) {
            return fail(Errc::reset, "broken");
        }
        size_t total = 0;
        for (const MutableBytes part : parts) {
            const size_t step = std::min({part.size(), inbox.size() - at, most - total});
            std::copy_n(inbox.begin() + static_cast<ptrdiff_t>(at), step, part.begin());
            at += step;
            total += step;
        }
        return total;
    }
    Result<bool> wait(Interest, TimePoint, microseconds) override { return false; }
    void wake() override {}
    TransportKind kind() const override { return TransportKind::tcp; }

    std::vector<std::byte> inbox;
    size_t at = 0, most = SIZE_MAX;
    bool is_broken = false;
};

std::vector<std::byte> record(uint64_t position, uint64_t acknowledged, const std::vector<std::byte> & data) {
    wire::RecordHeader header{static_cast<uint32_t>(data.size()), 0, acknowledged};
    header.check = wire::record_check(position, header, std::array{ConstBytes(data)});
    return bytes_of(header) + data;
}

struct RecordReaderTest : testing::Test {
    // Receives up to `size` bytes in one call.
    std::vector<std::byte> receive(size_t size, uint64_t sent = 0) {
        std::vector<std::byte> out(size);
        const std::array parts{MutableBytes(out).first(size / 2), MutableBytes(out).subspan(size / 2)};
        auto got = reader.receive(&source, parts, sent);
        failure = std::move(got.failure);
        out.resize(got.size);
        return out;
    }
    // Until nothing arrives any more.
    std::vector<std::byte> receive_all(size_t piece = 1000) {
        std::vector<std::byte> all;
        for (;;) {
            const auto got = receive(piece, UINT64_MAX);
            if (got.empty() && source.at == source.inbox.size()) {
                return all;
            }
            all.insert(all.end(), got.begin(), got.end());
        }
    }

    RecordReader reader;
    Source source;
    std::optional<RecordReader::Failure> failure;
};

TEST_F(RecordReaderTest, JoinsRecordsInPiecesOfAnySize) {
    const auto data = noise(300'000);
    const std::vector<std::byte> a(data.begin(), data.begin() + 5), b(data.begin() + 5, data.begin() + 200'000),
        c(data.begin() + 200'000, data.end());
    const auto records = record(0, 0, a) + record(5, 0, {}) + record(5, 0, b) + record(200'000, 0, c);
    for (const size_t most : {size_t{7}, size_t{4096}, SIZE_MAX}) {
        reader = RecordReader();
        source.inbox = records;
        source.at = 0;
        source.most = most;
        EXPECT_TRUE(receive_all() == data) << most;
        EXPECT_FALSE(failure);
        EXPECT_EQ(reader.consumed(), data.size());
        EXPECT_FALSE(reader.has_data());
    }
}

TEST_F(RecordReaderTest, KeepsTheHighestAcknowledgement) {
    source.inbox = record(0, 5, noise(1)) + record(1, 9, noise(1)) + record(2, 7, noise(1));
    receive(3, 9);
    EXPECT_FALSE(failure);
    EXPECT_EQ(reader.acknowledged(), 9u);
}

TEST_F(RecordReaderTest, AcknowledgementOfUnsentBytesIsAViolation) {
    source.inbox = record(0, 10, noise(1));
    receive(1, 9);
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, Kind::protocol);
}

TEST_F(RecordReaderTest, AlteredBytesAndPositionsAreFound) {
    const auto good = record(0, 3, noise(20));
    for (size_t i = 0; i < good.size(); ++i) {
        if (i < sizeof(uint32_t)) {
            continue;  // another length waits for more bytes
        }
        reader = RecordReader();
        source.inbox = good;
        source.at = 0;
        source.inbox[i] ^= std::byte{1};
        EXPECT_EQ(receive(20, 100).size(), 0u) << i;
        ASSERT_TRUE(failure) << i;
        EXPECT_EQ(failure->kind, Kind::corrupt) << i;
    }
    reader = RecordReader();
    source.inbox = record(1, 3, noise(20));  // the one before it is missing
    source.at = 0;
    receive(20, 100);
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, Kind::corrupt);
}

TEST_F(RecordReaderTest, RecordLongerThanTheMaximumIsAViolation) {
    wire::RecordHeader header{wire::max_record + 1, 0, 0};
    header.check = wire::record_check(0, header, {});
    source.inbox = bytes_of(header);
    receive(20);
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, Kind::protocol);
}

TEST_F(RecordReaderTest, FailureOfTheConnectionFollowsTheData) {
    source.inbox = record(0, 0, noise(20));
    EXPECT_EQ(receive(30).size(), 20u);
    EXPECT_FALSE(failure);
    source.is_broken = true;
    EXPECT_EQ(receive(30).size(), 0u);
    ASSERT_TRUE(failure);
    EXPECT_EQ(failure->kind, Kind::connection);
}

TEST_F(RecordReaderTest, KeepsWhatIsReceivedAhead) {
    source.inbox = record(0, 4, noise(20));
    EXPECT_FALSE(reader.has_data());
    EXPECT_FALSE(reader.receive_ahead(&source, 4));
    EXPECT_EQ(reader.acknowledged(), 4u);
    EXPECT_EQ(reader.consumed(), 0u);
    EXPECT_TRUE(reader.has_data());
    std::vector<std::byte> first(8);
    EXPECT_EQ(reader.receive_stashed(std::array{MutableBytes(first)}), 8u);
    const auto rest = receive(100);
    EXPECT_EQ(first + rest, noise(20));
    EXPECT_EQ(reader.consumed(), 20u);
    EXPECT_FALSE(reader.has_data());
}

TEST_F(RecordReaderTest, MoreThanTheWindowAheadIsAViolation) {
    const std::vector<std::byte> piece(wire::max_record);
    for (uint64_t position = 0; position <= wire::resume_window; position += piece.size()) {
        const auto next = record(position, 0, piece);
        source.inbox.insert(source.inbox.end(), next.begin(), next.end());
    }
    const auto violation = reader.receive_ahead(&source, 0);
    ASSERT_TRUE(violation);
    EXPECT_EQ(violation->kind, Kind::protocol);
}

TEST_F(RecordReaderTest, ContinuesOnANewConnectionAtTheConsumedPosition) {
    const auto data = noise(60'000);
    source.inbox = record(0, 0, data);
    source.most = 30'000;
    const auto before = receive(10'000);
    ASSERT_EQ(before.size(), 10'000u);
    reader.receive_ahead(nullptr, 0);  // what has arrived, and is not consumed, is sent again
    reader.on_lost();
    reader.drop_stash();
    reader.resume();
    EXPECT_FALSE(reader.has_data());
    source.inbox = record(10'000, 0, {data.begin() + 10'000, data.end()});
    source.at = 0;
    EXPECT_TRUE(before + receive_all() == data);
    EXPECT_FALSE(failure);
}

}  // namespace
}  // namespace caravan::net
