#include "client/weights/known_digests.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <unistd.h>

#include <fstream>

#include "support/gguf_bytes.h"
#include "support/wire_peer.h"

namespace caravan::client {
namespace {

namespace fs = std::filesystem;

class KnownDigestsTest : public testing::Test {
protected:
    KnownDigestsTest() : folder_(fs::path(testing::TempDir()) / ("digests-" + std::to_string(::getpid()))) {
        fs::create_directories(folder_);
        write(test::noise(3 * page));
    }
    ~KnownDigestsTest() override { fs::remove_all(folder_); }

    static constexpr size_t page = 64 * 1024;
    void write(const std::vector<std::byte> & bytes) {
        std::ofstream(model_).write(reinterpret_cast<const char *>(bytes.data()),
                                    static_cast<std::streamsize>(bytes.size()));
    }
    // Maps the whole file for the rest of the test.
    ConstBytes map() {
        const UniqueFd fd(::open(model_.c_str(), O_RDONLY));
        void * memory = ::mmap(nullptr, 3 * page, PROT_READ, MAP_SHARED, fd.get(), 0);
        EXPECT_NE(memory, MAP_FAILED);
        return const_bytes(memory, 3 * page);
    }
    static KnownDigests::Digest computed(ConstBytes data) {
        cache::Blake3 hasher;
        hasher.update(data);
        return hasher.bytes();
    }
    // Replaces the digests on disk by zeroes, so that a test can tell a saved digest from a computed one.
    void falsify() {
        for (const auto & entry : fs::recursive_directory_iterator(folder_ / "cache")) {
            if (entry.is_regular_file()) {
                std::ifstream in(entry.path());
                std::string text(std::istreambuf_iterator<char>(in), {});
                for (size_t at = 0; (at = text.find(" 0000000000000000 ", at)) != std::string::npos; at += 82) {
                    text.replace(at + 18, 64, 64, '0');
                }
                std::ofstream(entry.path()) << text;
            }
        }
    }
    static constexpr KnownDigests::Digest zeroes{};

    const fs::path folder_, model_ = folder_ / "model.gguf";
};

TEST_F(KnownDigestsTest, DigestMatchesForAllParts) {
    const ConstBytes whole = map();
    KnownDigests known(folder_ / "cache");
    for (const ConstBytes part : {whole, whole.first(page), whole.subspan(page, page), whole.subspan(100, 333)}) {
        EXPECT_EQ(known.digest_of(part).digest, computed(part));
        EXPECT_EQ(known.digest_of(part).digest, computed(part));
    }
    const auto own = test::noise(500);
    EXPECT_EQ(known.digest_of(ConstBytes(own)).digest, computed(own));
}

TEST_F(KnownDigestsTest, SavedDigestIsNotComputedAgain) {
    const ConstBytes part = map().subspan(page, page);
    {
        KnownDigests known(folder_ / "cache");
        known.digest_of(part);
        known.save();
    }
    falsify();
    KnownDigests later(folder_ / "cache");
    EXPECT_EQ(later.digest_of(part).digest, zeroes) << "the saved digest was not used";
    EXPECT_EQ(later.digest_of(part.first(10)).digest, computed(part.first(10)));
}

TEST_F(KnownDigestsTest, SavedDigestOfRowsIsNotComputedAgain) {
    const WeightRows rows(map().data() + 10, 100, 20, 300), other(map().data() + 10, 100, 20, 301);
    {
        KnownDigests known(folder_ / "cache");
        EXPECT_EQ(known.digest_of(rows).digest, computed(rows.packed()));
        EXPECT_EQ(known.digest_of(other).digest, computed(other.packed()));
        known.save();
    }
    for (const auto & entry : fs::recursive_directory_iterator(folder_ / "cache")) {
        if (entry.is_regular_file()) {
            std::ifstream in(entry.path());
            std::string text(std::istreambuf_iterator<char>(in), {});
            text.replace(text.find("rows 10 100 20 300 ") + 19, 64, 64, '0');
            std::ofstream(entry.path()) << text;
        }
    }
    KnownDigests later(folder_ / "cache");
    EXPECT_EQ(later.digest_of(rows).digest, zeroes) << "the saved digest was not used";
    EXPECT_EQ(later.digest_of(other).digest, computed(other.packed()));
    EXPECT_EQ(later.digest_of(rows).source->rows, (cache::Rows{10, 100, 20, 300}));
}

TEST_F(KnownDigestsTest, TensorOfAPartIsHashed) {
    const auto noise = test::noise(5 << 20);
    const std::string text = test::text_of(noise);
    const std::string model = test::model_of({text.substr(0, 100), text.substr(0, 2 << 20), text.substr(2 << 20)});
    std::ofstream(model_) << model;
    const UniqueFd fd(::open(model_.c_str(), O_RDONLY));
    void * memory = ::mmap(nullptr, model.size(), PROT_READ, MAP_SHARED, fd.get(), 0);
    ASSERT_NE(memory, MAP_FAILED);
    const auto * second = static_cast<const std::byte *>(memory) + model.find(text.substr(2 << 20));
    const ConstBytes tensor(second, 3 << 20);
    KnownDigests known(folder_ / "cache");
    const auto whole_of = [&](const WeightRows & part) { return known.digest_of(part, KnownDigests::Scope::and_whole).whole; };
    const auto whole = whole_of({second + 7, 1000, 500, 2000});
    ASSERT_TRUE(whole);
    EXPECT_EQ(whole->size, tensor.size());
    EXPECT_EQ(whole->digest, computed(tensor));
    EXPECT_EQ(whole->part, (cache::Rows{7, 1000, 500, 2000}));
    EXPECT_TRUE(whole_of(tensor.first(100)));
    EXPECT_FALSE(whole_of(tensor)) << "a whole tensor";
    EXPECT_FALSE(whole_of({second - 50, 100, 5, 200})) << "a part of two tensors";
    EXPECT_FALSE(whole_of(ConstBytes(static_cast<const std::byte *>(memory), 20))) << "no tensor";
    EXPECT_FALSE(known.digest_of(tensor.first(100)).whole) << "not asked for";
    ::munmap(static_cast<std::byte *>(memory), 4096);
    ASSERT_EQ(::munmap(const_cast<std::byte *>(second) + (2 << 20) - reinterpret_cast<uintptr_t>(second) % 4096, 4096), 0);
    KnownDigests later(folder_ / "other");
    EXPECT_FALSE(later.digest_of(tensor.first(100), KnownDigests::Scope::and_whole).whole) << "not mapped as a whole";
}

TEST_F(KnownDigestsTest, ChangedFileIsHashedAgain) {
    {
        KnownDigests known(folder_ / "cache");
        known.digest_of(map());
        known.save();
    }
    falsify();
    write(test::noise(3 * page, 9));
    fs::last_write_time(model_, fs::last_write_time(model_) + seconds(5));
    const ConstBytes changed = map();
    KnownDigests later(folder_ / "cache");
    EXPECT_EQ(later.digest_of(changed).digest, computed(changed));
}

TEST_F(KnownDigestsTest, WritableMappingIsHashedEveryTime) {
    const UniqueFd fd(::open(model_.c_str(), O_RDONLY));
    auto * memory = static_cast<std::byte *>(::mmap(nullptr, page, PROT_READ | PROT_WRITE, MAP_PRIVATE, fd.get(), 0));
    ASSERT_NE(memory, MAP_FAILED);
    KnownDigests known(folder_ / "cache");
    const auto before = known.digest_of(ConstBytes(memory, page)).digest;
    memory[7] ^= std::byte{1};
    EXPECT_NE(known.digest_of(ConstBytes(memory, page)).digest, before);
    ::munmap(memory, page);
}

TEST_F(KnownDigestsTest, ReplacedFileIsNotTheMappedOne) {
    const ConstBytes old = map();
    const auto other = test::noise(3 * page, 9);
    // The kernel reports the second name after a replacement.
    for (const char * name : {"model.gguf", "model.gguf (deleted)"}) {
        const fs::path place = folder_ / name, fresh = folder_ / "fresh";
        std::ofstream(fresh).write(reinterpret_cast<const char *>(other.data()), 3 * page);
        fs::rename(fresh, place);
        KnownDigests known(folder_ / "cache");
        EXPECT_FALSE(known.digest_of(old).source) << name;
        EXPECT_EQ(known.digest_of(old).digest, computed(old)) << name;
    }
}

TEST_F(KnownDigestsTest, DataBeyondTheMappingHasNoSource) {
    auto * memory = static_cast<std::byte *>(
        ::mmap(nullptr, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    ASSERT_NE(memory, MAP_FAILED);
    const UniqueFd fd(::open(model_.c_str(), O_RDONLY));
    ASSERT_EQ(::mmap(memory, page, PROT_READ, MAP_SHARED | MAP_FIXED, fd.get(), 0), memory);
    KnownDigests known(folder_ / "cache");
    EXPECT_TRUE(known.digest_of(ConstBytes(memory, page)).source);
    const auto before = known.digest_of(ConstBytes(memory, 2 * page));
    EXPECT_FALSE(before.source);
    memory[page] ^= std::byte{1};
    EXPECT_NE(known.digest_of(ConstBytes(memory, 2 * page)).digest, before.digest);
    ::munmap(memory, 2 * page);
}

TEST_F(KnownDigestsTest, WithoutFolderItStillHashes) {
    const ConstBytes whole = map();
    KnownDigests nowhere{fs::path()};
    EXPECT_EQ(nowhere.digest_of(whole).digest, computed(whole));
    nowhere.save();
}

}  // namespace
}  // namespace caravan::client
