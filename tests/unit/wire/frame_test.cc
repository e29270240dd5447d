#include "wire/frame.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "wire/extension.h"

namespace caravan::wire {
namespace {

std::vector<int> numbers(ConstBytes bytes) {
    std::vector<int> out;
    std::ranges::transform(bytes, std::back_inserter(out), [](std::byte b) { return static_cast<int>(b); });
    return out;
}

TEST(Frame, HeaderAlone) {
    EXPECT_EQ(numbers(frame_header(Command::device_count)), (std::vector<int>{15, 0, 0, 0, 0, 0, 0, 0, 0}));
    EXPECT_EQ(numbers(frame_header(command_records)), (std::vector<int>{133, 0, 0, 0, 0, 0, 0, 0, 0}));
    EXPECT_EQ(numbers(frame_header(Command::graph_compute, 0x0102'0304'0506'0708)),
              (std::vector<int>{10, 8, 7, 6, 5, 4, 3, 2, 1}));
}

TEST(Frame, HeaderAndPayload) {
    EXPECT_EQ(numbers(frame(Command::alloc_buffer, AllocBufferRequest{0x0a0b0c0d, 0x1234})),
              (std::vector<int>{0, 12, 0, 0, 0, 0, 0, 0, 0, 0x0d, 0x0c, 0x0b, 0x0a, 0x34, 0x12, 0, 0, 0, 0, 0, 0}));
}

TEST(Frame, SizeIncludesWhatFollows) {
    EXPECT_EQ(numbers(frame(Command::buffer_clear, BufferClearRequest{0xff, 7}, 0x100)),
              (std::vector<int>{5, 9, 1, 0, 0, 0, 0, 0, 0, 0xff, 0, 0, 0, 0, 0, 0, 0, 7}));
}

TEST(Frame, ReplyHasNoCommand) {
    EXPECT_EQ(numbers(reply_frame(uint32_t{0x01020304})), (std::vector<int>{4, 0, 0, 0, 0, 0, 0, 0, 4, 3, 2, 1}));
}

}  // namespace
}  // namespace caravan::wire
