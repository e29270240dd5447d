// The boundaries of messages to stock peers.
#ifdef GGML_RPC_RDMA
#include "net/rdma/stock_fields.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "wire/extension.h"
#include "wire/frame.h"
#include "wire/stock_rdma.h"

namespace caravan::net::rdma {
namespace {

// The sizes of the messages that carry `stream`, if at most `step` bytes are offered at a time.
std::vector<size_t> messages(StockFields & fields, ConstBytes stream, size_t step) {
    std::vector<size_t> out;
    while (!stream.empty()) {
        const size_t size = static_cast<size_t>(std::min<uint64_t>({fields.left(), stream.size(), step}));
        EXPECT_GT(size, 0u);
        fields.advance(stream.first(size));
        stream = stream.subspan(size);
        out.push_back(size);
    }
    return out;
}

std::vector<std::byte> command(wire::Command command, size_t payload) {
    const auto header = wire::frame_header(command, payload);
    std::vector<std::byte> out(header.begin(), header.end());
    out.resize(out.size() + payload, std::byte{0xee});
    return out;
}

std::vector<std::byte> reply(size_t payload) {
    std::vector<std::byte> out(sizeof(uint64_t) + payload, std::byte{0xee});
    store(out.data(), uint64_t{payload});
    return out;
}

void append(std::vector<std::byte> & to, const std::vector<std::byte> & more) { to.insert(to.end(), more.begin(), more.end()); }

using Sizes = std::vector<size_t>;

TEST(StockFields, CommandsAreThreeFields) {
    StockFields fields(StockFields::Sender::client);
    auto stream = command(wire::Command::get_alignment, 4);
    append(stream, command(wire::Command::device_count, 0));  // has no payload
    append(stream, command(wire::Command::set_tensor, 70'000));
    EXPECT_EQ(messages(fields, stream, 65'536), (Sizes{1, 8, 4, 1, 8, 1, 8, 65'536, 4464}));
    EXPECT_EQ(fields.left(), 1u);
}

TEST(StockFields, RepliesAreTwoFields) {
    StockFields fields(StockFields::Sender::server);
    auto stream = reply(8);
    append(stream, reply(0));
    append(stream, reply(3));
    EXPECT_EQ(messages(fields, stream, 65'536), (Sizes{8, 8, 8, 8, 3}));
    EXPECT_EQ(fields.left(), 8u);
}

TEST(StockFields, FieldsMayArriveInPieces) {
    StockFields fields(StockFields::Sender::client);
    auto stream = command(wire::Command::get_tensor, 300);
    append(stream, command(wire::Command::get_alignment, 4));
    const Sizes sizes = messages(fields, stream, 5);
    EXPECT_EQ(Sizes(sizes.begin(), sizes.begin() + 4), (Sizes{1, 5, 3, 5})) << "none reaches beyond a field";
    EXPECT_EQ(fields.left(), 1u);
}

TEST(StockFields, SizesOf64Bits) {
    StockFields fields(StockFields::Sender::client);
    const auto header = wire::frame_header(wire::Command::set_tensor, UINT64_MAX);
    messages(fields, header, 100);
    EXPECT_EQ(fields.left(), UINT64_MAX);
}

TEST(StockRdma, Recognition) {
    const wire::Extension caravan{.features = ~0u, .token = ~uint64_t{0}};
    EXPECT_FALSE(wire::is_queue_pair(load<wire::StockRdma>(const_bytes(&caravan, sizeof caravan).data())));
    wire::StockRdma peer{17, 17, {0xfe, 0x80}};
    EXPECT_TRUE(wire::is_queue_pair(peer));
    for (const uint32_t qpn : {0u, 1u, 0x1000000u, UINT32_MAX}) {
        EXPECT_FALSE(wire::is_queue_pair({qpn, 17, {0xfe, 0x80}})) << qpn;
    }
    EXPECT_FALSE(wire::is_queue_pair({17, 0x1000000, {0xfe, 0x80}}));
    EXPECT_FALSE(wire::is_queue_pair({17, 17, {0xff, 0x02}})) << "multicast";
    for (const uint8_t first : {uint8_t{224}, uint8_t{239}, uint8_t{255}}) {
        EXPECT_FALSE(wire::is_queue_pair({17, 17, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, first, 0, 0, 1}}));
    }
    EXPECT_TRUE(wire::is_queue_pair({17, 17, {0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 10, 0, 0, 1}}));
    EXPECT_FALSE(wire::is_queue_pair({17, 17, {}}));
}

}  // namespace
}  // namespace caravan::net::rdma
#endif
