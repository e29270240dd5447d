// The index of blobs by the stock hash.
#include "cache/store.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/store_fixture.h"

namespace caravan::cache {
namespace {

using namespace store_fixture;

TEST_F(CacheTest, RebuildsDamagedIndexFile) {
    const Store store = open();
    overwrite(directory_ / "secret", "abc");
    ASSERT_TRUE(put(store, "abc"));
    const std::string name = contents(index_file("abc"));
    std::string upper = name;
    upper[0] = 'B';
    for (const std::string & damaged :
         {std::string(), std::string("../../secret\n"), (directory_ / "secret").string() + "\n", name.substr(0, 64),
          name + "\n", upper, std::string(65, '\0'), "../../secret" + std::string(52, '/') + "\n"}) {
        overwrite(index_file("abc"), damaged);
        EXPECT_EQ(get(open(), "abc"), "abc") << damaged;
        EXPECT_EQ(contents(index_file("abc")), name);
    }
    EXPECT_EQ(contents(directory_ / "secret"), "abc");
    ASSERT_TRUE(put(store, "abc"));
    EXPECT_EQ(get(store, "abc"), "abc");
}

TEST_F(CacheTest, CollisionKeepsTheFirstBlob) {
    ASSERT_NE(twin_a, twin_b);
    ASSERT_EQ(hash(twin_a), hash(twin_b));
    const Store store = open();
    ASSERT_TRUE(put(store, twin_a));
    EXPECT_FALSE(put(store, twin_b));
    EXPECT_EQ(warnings.size(), 1U);
    EXPECT_EQ(get(store, hash(twin_b), twin_b.size()), twin_a);
    EXPECT_EQ(files("blobs").size(), 1U);
    EXPECT_TRUE(files("tmp").empty());
}

TEST_F(CacheTest, IndexesBlobsAtTheFirstLookupByStockHash) {
    const std::string a = weights(3'000'000, 1), b = weights(3'000'000, 2), other = weights(2'000'000, 3);
    {
        const Store store = open();
        for (const std::string & text : {a, b, other}) {
            ASSERT_TRUE(put(store, text, Keys::digest));
        }
    }
    EXPECT_EQ(files("blobs").size(), 3U);
    EXPECT_TRUE(files("index").empty());
    const Store store = open();
    EXPECT_EQ(get(store, 42, 1'000'000), std::nullopt);
    EXPECT_TRUE(files("index").empty()) << "no blob has this size";
    EXPECT_EQ(get(store, a), a);
    EXPECT_TRUE(fs::exists(index_file(b))) << "all blobs of a size are indexed at once";
    EXPECT_FALSE(fs::exists(index_file(other)));
    EXPECT_EQ(get(store, b), b);
    EXPECT_EQ(get(store, other), other);
    EXPECT_TRUE(warnings.empty());
}

TEST_F(CacheTest, RemovesBlobsThatCannotBeIndexed) {
    const std::string altered = weights(3'000'000);
    {
        const Store store = open();
        ASSERT_TRUE(put(store, twin_a));
        ASSERT_TRUE(put(store, twin_b, Keys::digest));
        ASSERT_TRUE(put(store, altered, Keys::digest));
    }
    for (const auto & file : fs::directory_iterator(ours() / "blobs")) {
        if (file.file_size() == altered.size()) {
            overwrite(file.path(), weights(altered.size(), 2));
        }
    }
    const Store store = open();
    EXPECT_EQ(get(store, altered), std::nullopt);
    EXPECT_EQ(warnings.size(), 1U);
    fs::remove(index_file(twin_a));
    const auto kept = get(store, twin_a);
    EXPECT_TRUE(kept == std::string(twin_a) || kept == std::string(twin_b)) << "whichever was indexed first";
    EXPECT_EQ(warnings.size(), 2U);
    EXPECT_EQ(files("blobs").size(), 1U);
}

// A worker that its client has compromised can replace index files.
TEST_F(CacheTest, RemovesForgedIndexFile) {
    const Store store = open();
    const std::string real = weights(3'000'000, 1), other = weights(3'000'000, 2);
    ASSERT_TRUE(put(store, real));
    ASSERT_TRUE(put(store, other));
    const std::string names_other = contents(index_file(other));
    overwrite(index_file(real), names_other);
    EXPECT_EQ(get(store, real), std::nullopt) << "the blob is that of other weights";
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_TRUE(warnings[0].contains("FNV-1a hash does not match")) << warnings[0];
    EXPECT_FALSE(fs::exists(index_file(real)));
    EXPECT_EQ(get(store, other), other) << "the blob itself is intact";
    EXPECT_EQ(get(open(), real), real) << "indexed again, from its bytes";
}

TEST_F(CacheTest, CollidingBlobReplacesAMissingFirstBlob) {
    const Store store = open();
    ASSERT_TRUE(put(store, twin_a));
    fs::remove(blob(twin_a));
    EXPECT_TRUE(put(store, twin_b));
    EXPECT_EQ(get(store, twin_b), twin_b);
}

}  // namespace
}  // namespace caravan::cache
