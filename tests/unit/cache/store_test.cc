// A stored blob can be read back, and nothing else is ever served.
#include "cache/store.h"

#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <string>
#include <vector>

#include "support/store_fixture.h"

namespace caravan::cache {
namespace {

using namespace store_fixture;

TEST_F(CacheTest, ReadsBackStoredBlobs) {
    const Store store = open();
    for (const size_t size : {size_t{0}, size_t{1}, size_t{4096}, (size_t{3} << 20) + 17}) {
        const std::string text = weights(size);
        EXPECT_FALSE(store.find(hash(text), size)) << size;
        ASSERT_TRUE(put(store, text)) << size;
        EXPECT_EQ(get(store, text), text) << size;
        EXPECT_EQ(get(store, text), text) << "second read, " << size;
    }
    EXPECT_TRUE(files("tmp").empty());
    EXPECT_TRUE(warnings.empty());
}

TEST_F(CacheTest, FilesHaveTheDocumentedNamesAndModes) {
    const mode_t old = ::umask(0);
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    ::umask(old);
    const std::string digest = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    EXPECT_EQ(contents(ours() / "index" / "e71fa2190541574b-3"), digest + "\n");
    EXPECT_EQ(contents(ours() / "blobs" / digest), "abc");
    EXPECT_EQ(mode_of(ours() / "blobs" / digest), 0600U);
    for (const char * folder : {"", "blobs", "index", "tmp"}) {
        EXPECT_EQ(mode_of(ours() / folder), 0700U) << folder;
    }
}

TEST_F(CacheTest, AnotherHashOrSizeIsNotFound) {
    const Store store = open();
    const std::string text = weights(100);
    ASSERT_TRUE(put(store, text));
    EXPECT_FALSE(store.find(hash(text) + 1, 100));
    EXPECT_FALSE(store.find(hash(text), 99));
    EXPECT_EQ(get(store, text), text);
}

TEST_F(CacheTest, RemovesTruncatedBlob) {
    const Store store = open();
    const std::string text = weights(5000);
    ASSERT_TRUE(put(store, text));
    fs::resize_file(blob(text), 4999);
    EXPECT_FALSE(store.find(hash(text), 5000));
    EXPECT_EQ(warnings.size(), 1U);
    expect_empty();
    ASSERT_TRUE(put(store, text));
    EXPECT_EQ(get(store, text), text);
}

TEST_F(CacheTest, RemovesBlobWithExtraBytes) {
    const Store store = open();
    const std::string text = weights(5000);
    ASSERT_TRUE(put(store, text));
    fs::resize_file(blob(text), 5001);
    EXPECT_FALSE(store.find(hash(text), 5000));
    expect_empty();
}

TEST_F(CacheTest, RemovesBlobWithAnAlteredByte) {
    const Store store = open();
    const std::string text = weights(3 << 20);
    for (const size_t at : {size_t{0}, text.size() / 2, text.size() - 1}) {
        ASSERT_TRUE(put(store, text));
        std::string altered = text;
        altered[at] ^= 1;
        overwrite(blob(text), altered);
        EXPECT_EQ(get(store, text), std::nullopt) << at;
        expect_empty();
    }
    EXPECT_EQ(warnings.size(), 3U);
}

TEST_F(CacheTest, DetectsTruncationDuringReading) {
    const Store store = open();
    const std::string text = weights(3 << 20);
    ASSERT_TRUE(put(store, text));
    auto reader = store.find(hash(text), text.size());
    ASSERT_TRUE(reader);
    std::string to(text.size(), '\0');
    ASSERT_GT(reader->read(mutable_bytes(to.data(), 1000)).value_or(0), 0U);
    fs::resize_file(blob(text), 500);
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(1), 0U);
    EXPECT_FALSE(reader->verify());
    EXPECT_FALSE(reader->verify()) << "the result is final";
    expect_empty();
}

TEST_F(CacheTest, PartiallyReadBlobFailsVerification) {
    const Store store = open();
    const std::string text = weights(1000);
    ASSERT_TRUE(put(store, text));
    auto reader = store.find(hash(text), text.size());
    ASSERT_TRUE(reader);
    std::string to(999, '\0');
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(0), 999U);
    EXPECT_FALSE(reader->verify());
    EXPECT_FALSE(store.find(hash(text), text.size()));
}

TEST_F(CacheTest, VerifyIsIdempotent) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    auto reader = store.find(hash("abc"), 3);
    ASSERT_TRUE(reader);
    std::string to(10, '\0');
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(0), 3U);
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(1), 0U);
    EXPECT_TRUE(reader->verify());
    EXPECT_TRUE(reader->verify());
    EXPECT_EQ(get(store, "abc"), "abc");
}

TEST_F(CacheTest, RemovesIndexFileOfMissingBlob) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    fs::remove(blob("abc"));
    EXPECT_FALSE(store.find(hash("abc"), 3));
    expect_empty();
}

TEST_F(CacheTest, DoesNotFollowSymbolicLink) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    const fs::path path = blob("abc");
    overwrite(directory_ / "secret", "abc");
    fs::remove(path);
    fs::create_symlink(directory_ / "secret", path);
    EXPECT_FALSE(store.find(hash("abc"), 3));
    EXPECT_EQ(contents(directory_ / "secret"), "abc");
    expect_empty();
}

TEST_F(CacheTest, UncommittedWriterLeavesNoFile) {
    const Store store = open();
    {
        auto writer = store.begin(3);
        ASSERT_TRUE(writer);
        writer->append(bytes("abc"));
        EXPECT_EQ(files("tmp").size(), 1U);
        const Writer moved = std::move(*writer);
        EXPECT_EQ(files("tmp").size(), 1U);
    }
    expect_empty();
}

TEST_F(CacheTest, DoesNotCommitTheWrongNumberOfBytes) {
    const Store store = open();
    for (const std::string_view text : {"", "ab", "abcd"}) {
        auto writer = store.begin(3);
        ASSERT_TRUE(writer);
        writer->append(bytes(text));
        EXPECT_FALSE(writer->commit()) << text;
        writer->append(bytes("c"));
        EXPECT_FALSE(writer->commit()) << text;
        expect_empty();
    }
}

TEST_F(CacheTest, StoringAgainRepairsTheBlob) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    overwrite(blob("abc"), "abd");
    EXPECT_TRUE(put(store, "abc"));
    EXPECT_EQ(get(store, "abc"), "abc");
}

TEST_F(CacheTest, CreatesDirectoryAndItsParents) {
    directory_ /= "not/yet";
    EXPECT_TRUE(put(open(), "abc"));
    directory_ = directory_.parent_path().parent_path();
}

TEST_F(CacheTest, FileInsteadOfADirectoryIsAnError) {
    overwrite(directory_ / "file", "x");
    const auto as_directory = Store::open(directory_ / "file");
    ASSERT_FALSE(as_directory);
    EXPECT_TRUE(as_directory.error().text.contains((directory_ / "file").string())) << as_directory.error().text;
    const auto as_parent = Store::open(directory_ / "file" / "rpc");
    ASSERT_FALSE(as_parent);
    EXPECT_TRUE(as_parent.error().text.contains((directory_ / "file").string())) << as_parent.error().text;
    EXPECT_FALSE(Store::open(""));
    fs::create_directories(ours());
    overwrite(ours() / "index", "x");
    const auto ours_is_file = Store::open(directory_);
    ASSERT_FALSE(ours_is_file);
    EXPECT_TRUE(ours_is_file.error().text.contains((ours() / "index").string())) << ours_is_file.error().text;
}

TEST_F(CacheTest, FindsBlobByDigest) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    const std::string digest = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    auto reader = store.find_digest(digest, 3);
    ASSERT_TRUE(reader);
    std::string to(3, '\0');
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(0), 3U);
    EXPECT_TRUE(reader->verify());
    EXPECT_EQ(to, "abc");
}

TEST_F(CacheTest, InvalidDigestOrSizeRemovesNothing) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    const std::string digest = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
    std::string upper = digest;
    upper[0] = 'B';
    for (const std::string & name :
         {std::string(), upper, digest.substr(1), digest + "0", "../index/" + digest.substr(9)}) {
        EXPECT_FALSE(store.find_digest(name, 3)) << name;
    }
    EXPECT_FALSE(store.find_digest(digest, 2));
    EXPECT_FALSE(store.find_digest(digest, 4));
    EXPECT_EQ(get(store, "abc"), "abc");
}

TEST_F(CacheTest, RemovesAlteredBlobFoundByDigest) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    const fs::path path = blob("abc");
    overwrite(path, "abd");
    auto reader = store.find_digest(path.filename().string(), 3);
    ASSERT_TRUE(reader);
    std::string to(3, '\0');
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(0), 3U);
    EXPECT_FALSE(reader->verify());
    EXPECT_FALSE(fs::exists(path));
    EXPECT_FALSE(store.find(hash("abc"), 3));
    expect_empty();
}

}  // namespace
}  // namespace caravan::cache
