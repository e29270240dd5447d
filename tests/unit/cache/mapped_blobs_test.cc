// Blobs that are mapped in place of being read.
#include "cache/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <algorithm>
#include <string>

#include "platform/pages.h"
#include "support/store_fixture.h"

namespace caravan::cache {
namespace {

using namespace store_fixture;

#ifdef __linux__
class MappedTest : public CacheTest {
protected:
    static constexpr size_t size = 1'000'001;

    MappedTest() : memory_(::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)) {}
    ~MappedTest() override { ::munmap(memory_, size); }

    Store store() const {
        auto opened = Store::open(directory_);
        EXPECT_TRUE(put(*opened, text_));
        opened->seal();
        return std::move(*opened);
    }
    MutableBytes memory() const { return mutable_bytes(memory_, size); }
    std::string_view memory_text() const { return {static_cast<const char *>(memory_), size}; }
    fs::path blob() const { return *fs::directory_iterator(directory_ / "caravan" / "blobs"); }
    size_t mapped(const Store & from) const { return from.find(hash(text_), size)->map(memory()); }

    const std::string text_ = weights(size);
    void * const memory_;
};

TEST_F(MappedTest, MapsABlobPrivately) {
    const Store sealed = store();
    auto reader = sealed.find(hash(text_), size);
    const size_t done = reader->map(memory());
    EXPECT_EQ(done, size / page_size() * page_size());
    EXPECT_EQ(reader->read(memory().subspan(done)).value_or(0), size - done);
    EXPECT_TRUE(reader->verify());
    EXPECT_EQ(memory_text(), text_);
    std::ranges::fill(memory(), std::byte{7});
    EXPECT_EQ(contents(blob()), text_);
    fs::remove(blob());
    EXPECT_EQ(memory()[size / 2], std::byte{7}) << "a removed blob stays mapped";
}

TEST_F(MappedTest, DoesNotMapABlobThatOthersCanWrite) {
    Store sealed = store();
    ASSERT_GT(mapped(sealed), 0u);
    {
        const UniqueFd open_to_write(::open(blob().c_str(), O_WRONLY));
        EXPECT_EQ(mapped(sealed), 0u) << "it is open for writing";
    }
    ASSERT_GT(mapped(sealed), 0u);
    const fs::path other = directory_ / "caravan" / "tmp" / "other";
    fs::create_hard_link(blob(), other);
    EXPECT_EQ(mapped(sealed), 0u) << "it has another name";
    {
        auto reader = sealed.find(hash(text_), size);
        fs::remove(blob());
        EXPECT_EQ(reader->map(memory()), 0u) << "it has only another name";
    }
    fs::rename(other, other.parent_path().parent_path() / "blobs" / "elsewhere");
    EXPECT_TRUE(put(sealed, text_));
    EXPECT_GT(mapped(sealed), 0u);
    EXPECT_EQ(Store::open(directory_)->find(hash(text_), size)->map(memory()), 0u) << "not sealed";
}

TEST_F(MappedTest, DoesNotMapABlobThatWasReplaced) {
    const Store sealed = store();
    auto reader = sealed.find(hash(text_), size);
    const fs::path name = blob();
    fs::rename(name, directory_ / "caravan" / "tmp" / "other");
    overwrite(name, text_);
    EXPECT_EQ(reader->map(memory()), 0u);
}

// The mapping would keep its disk space allocated.
TEST_F(MappedTest, DoesNotEvictAMappedBlob) {
    const Store sealed = store();
    const fs::path mapped_blob = blob();
    ASSERT_GT(mapped(sealed), 0u);  // the reader is destroyed
    const Store limited = open(1'500'000);
    const std::string other = weights(size, 2), third = weights(size, 3);
    EXPECT_FALSE(put(limited, other));
    EXPECT_EQ(warnings.size(), 1U);
    EXPECT_EQ(get(limited, text_), text_);
    open(10);
    EXPECT_TRUE(fs::exists(mapped_blob)) << "a smaller limit does not evict it either";
    struct stat before, after;
    ASSERT_EQ(::stat(mapped_blob.c_str(), &before), 0);
    EXPECT_TRUE(put(open(), text_)) << "a mapped blob is not stored a second time";
    ASSERT_EQ(::stat(mapped_blob.c_str(), &after), 0);
    EXPECT_EQ(before.st_ino, after.st_ino);
    ASSERT_EQ(::mmap(memory_, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0), memory_);
    EXPECT_TRUE(put(limited, third));
    EXPECT_FALSE(fs::exists(mapped_blob));
}

TEST_F(MappedTest, DoesNotMapToUnalignedMemory) {
    const Store sealed = store();
    const std::unique_ptr<std::byte[]> unaligned(new std::byte[size + 1]);
    EXPECT_EQ(sealed.find(hash(text_), size)->map({unaligned.get() + 1, size}), 0u);
}

TEST_F(MappedTest, UnmapsADamagedBlob) {
    const Store sealed = store();
    std::string damaged = text_;
    damaged[size / 2] ^= 1;
    overwrite(blob(), damaged);
    auto reader = sealed.find(hash(text_), size);
    const size_t done = reader->map(memory());
    ASSERT_GT(done, 0u);
    EXPECT_TRUE(reader->read(memory().subspan(done)));
    EXPECT_FALSE(reader->verify());
    EXPECT_FALSE(sealed.find(hash(text_), size));
    EXPECT_TRUE(std::ranges::all_of(memory().first(done), [](std::byte b) { return b == std::byte{0}; }));
    std::ranges::fill(memory(), std::byte{7});
}
#endif

}  // namespace
}  // namespace caravan::cache
