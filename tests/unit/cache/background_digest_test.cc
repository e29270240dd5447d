#include "cache/background_digest.h"

#include <gtest/gtest.h>

#include <vector>

#include "cache/digest.h"

namespace caravan::cache {
namespace {

TEST(BackgroundDigest, EqualsBlake3) {
    std::vector<std::byte> bytes(10'000'000);
    for (size_t i = 0; i < bytes.size(); ++i) {
        bytes[i] = static_cast<std::byte>(i * 2654435761u >> 11);
    }
    Blake3 direct;
    direct.update(bytes);
    BackgroundDigest background;
    for (size_t at = 0; at < bytes.size(); at += 1'000'000) {
        background.update(ConstBytes(bytes).subspan(at, 1'000'000));
    }
    EXPECT_EQ(background.hex(), direct.hex());
    const BackgroundDigest unused;  // the destructor ends its thread
}

}  // namespace
}  // namespace caravan::cache
