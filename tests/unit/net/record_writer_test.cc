#include "net/resume/record_writer.h"

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

// Accepts up to `room` bytes.
struct Sink final : Transport {
    Result<size_t> send(std::span<const ConstBytes> parts) override {
        if (is_broken) {
            return fail(Errc::reset, "broken");
        }
        size_t total = 0;
        for (const ConstBytes part : parts) {
            const size_t step = std::min(part.size(), room);
            sent.insert(sent.end(), part.begin(), part.begin() + static_cast<ptrdiff_t>(step));
            room -= step;
            total += step;
        }
        return total;
    }
    Result<size_t> receive(std::span<const MutableBytes>) override { return 0; }
    Result<bool> wait(Interest, TimePoint, microseconds) override { return false; }
    void wake() override {}
    TransportKind kind() const override { return TransportKind::tcp; }

    std::vector<std::byte> sent;
    size_t room = SIZE_MAX;
    bool is_broken = false;
};

// A record as it must appear on the wire.
std::vector<std::byte> record(uint64_t position, uint64_t acknowledged, const std::vector<std::byte> & data) {
    wire::RecordHeader header{static_cast<uint32_t>(data.size()), 0, acknowledged};
    header.check = wire::record_check(position, header, std::array{ConstBytes(data)});
    return bytes_of(header) + data;
}

struct RecordWriterTest : testing::Test {
    // Sends the bytes as records. Returns how many were sent.
    size_t write(const std::vector<std::byte> & bytes, uint64_t consumed = 0) {
        size_t done = 0;
        while (done < bytes.size()) {
            const std::array parts{ConstBytes(bytes).subspan(done)};
            if (!writer.begin_record(parts, consumed)) {
                break;
            }
            const auto written = writer.write(sink, parts, now, consumed);
            error = written.error;
            done += written.size;
            if (written.size == 0 || error) {
                break;
            }
        }
        return done;
    }

    RecordWriter writer;
    Sink sink;
    TimePoint now{};
    std::optional<Error> error;
};

TEST_F(RecordWriterTest, CutsTheStreamIntoRecords) {
    const auto data = noise(wire::max_record + 10);
    EXPECT_EQ(write(data, 77), data.size());
    const std::vector<std::byte> first(data.begin(), data.begin() + wire::max_record), rest(data.end() - 10, data.end());
    EXPECT_TRUE(sink.sent == record(0, 77, first) + record(wire::max_record, 77, rest));
    EXPECT_EQ(writer.sent(), data.size());
    EXPECT_FALSE(writer.has_unsent());
    EXPECT_FALSE(writer.is_in_record());
}

TEST_F(RecordWriterTest, ContinuesARecordThatWasSentInPart) {
    const auto data = noise(100);
    sink.room = 16 + 30;
    EXPECT_EQ(write(data), 30u);
    EXPECT_TRUE(writer.is_in_record());
    sink.room = SIZE_MAX;
    EXPECT_EQ(write({data.begin() + 30, data.end()}), 70u);
    EXPECT_EQ(sink.sent, record(0, 0, data));
}

TEST_F(RecordWriterTest, HeaderThatWasSentInPartIsCompleted) {
    const auto data = noise(100);
    sink.room = 5;
    EXPECT_EQ(write(data), 0u);
    EXPECT_TRUE(writer.has_unsent());
    sink.room = SIZE_MAX;
    EXPECT_EQ(write(data), 100u);
    EXPECT_EQ(sink.sent, record(0, 0, data));
}

TEST_F(RecordWriterTest, StopsAtTheWindowUntilThePeerAcknowledges) {
    const auto data = noise(wire::resume_window + 100);
    EXPECT_EQ(write(data), wire::resume_window);
    EXPECT_EQ(writer.window_left(), 0u);
    const auto rest = noise(100);
    const std::array parts{ConstBytes(rest)};
    EXPECT_FALSE(writer.begin_record(parts, 0));
    EXPECT_TRUE(writer.needs_acknowledgement(parts));
    writer.on_acknowledged(40);
    EXPECT_EQ(writer.acknowledged(), 40u);
    writer.on_acknowledged(30);  // an older one
    EXPECT_EQ(writer.window_left(), 40u);
    EXPECT_EQ(write(rest), 40u);
}

TEST_F(RecordWriterTest, ResumesWhereThePeerHasReceivedEverything) {
    const auto data = noise(100);
    write(data);
    writer.on_acknowledged(10);
    sink.is_broken = true;
    EXPECT_EQ(write(noise(5)), 0u);
    EXPECT_TRUE(error);
    writer.on_lost();
    EXPECT_FALSE(writer.resume(9, 0)) << "these bytes are gone";
    EXPECT_FALSE(writer.resume(101, 0)) << "they were never sent";
    ASSERT_TRUE(writer.resume(60, 33));
    EXPECT_EQ(writer.unsent_size(), 40u);
    Sink second;
    ASSERT_TRUE(writer.flush(second, 33).value());
    EXPECT_EQ(second.sent, record(60, 33, {data.begin() + 60, data.end()}));
}

TEST_F(RecordWriterTest, RetransmitsFromLentMemoryAndFromItsCopy) {
    auto data = noise(50'000);
    writer.lend(data);
    EXPECT_EQ(write(data), data.size());
    writer.end_loan();
    const auto copy = data;
    std::ranges::fill(data, std::byte{0});
    writer.on_lost();
    ASSERT_TRUE(writer.resume(0, 0));
    Sink second;
    ASSERT_TRUE(writer.flush(second, 0).value());
    EXPECT_TRUE(second.sent == record(0, 0, copy));
}

TEST_F(RecordWriterTest, BytesOfANewConnectionPrecedeTheRecords) {
    const auto greeting = bytes_of(std::string_view("hello"));
    writer.queue(greeting);
    write(noise(10));
    EXPECT_EQ(sink.sent, greeting + record(0, 0, noise(10)));
}

TEST_F(RecordWriterTest, AcknowledgesAloneAfterManyBytesOnly) {
    constexpr uint64_t many = wire::resume_window / 8;
    EXPECT_FALSE(writer.acknowledge_if_due(many - 1));
    write(noise(10), many - 1);  // acknowledges as well
    EXPECT_FALSE(writer.acknowledge_if_due(2 * many - 2));
    sink.sent.clear();
    EXPECT_TRUE(writer.acknowledge_if_due(2 * many - 1));
    ASSERT_TRUE(writer.flush(sink, 2 * many - 1));
    EXPECT_EQ(sink.sent, record(10, 2 * many - 1, {}));
    EXPECT_FALSE(writer.acknowledge_if_due(2 * many - 1));
}

TEST_F(RecordWriterTest, ProbesOnceIfTheLastRecordIsNotAcknowledged) {
    EXPECT_EQ(writer.probe_time(), no_deadline);
    write(noise(10));
    EXPECT_FALSE(writer.probe_if_due(now + milliseconds(999), 0));
    EXPECT_TRUE(writer.probe_if_due(now + seconds(1), 0));
    ASSERT_TRUE(writer.flush(sink, 0));
    EXPECT_EQ(sink.sent, record(0, 0, noise(10)) + record(10, 0, {}));
    EXPECT_EQ(writer.probe_time(), no_deadline) << "once for each write";
    write(noise(10));
    writer.on_acknowledged(20);
    EXPECT_EQ(writer.probe_time(), no_deadline) << "nothing is missing";
}

}  // namespace
}  // namespace caravan::net
