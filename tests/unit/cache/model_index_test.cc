// Model files: tensors are found by hash while the file is unchanged, and each file is hashed once.
#include "cache/model_index.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <fstream>
#include <functional>
#include <iterator>
#include <mutex>
#include <string>
#include <vector>

#include "base/log.h"
#include "indexer/indexer.h"
#include "cache/weights.h"
#include "platform/unique_fd.h"
#include "support/gguf_bytes.h"
#include "support/temporary_folder.h"
#include "wire/native.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

constexpr size_t large = 10 * wire::find_threshold + 1;

std::mutex log_mutex;
std::vector<std::string> warnings;

std::string tensor(char seed, size_t size = large) {
    std::string text(size, seed);
    for (size_t i = 0; i < size; i += 4096) {
        text[i] = static_cast<char>(i >> 12);
    }
    return text;
}

uint64_t hash(std::string_view text) { return wire::fnv1a(const_bytes(text.data(), text.size())); }

// The verified content; std::nullopt if there is none or it fails verification.
std::optional<std::string> read(std::optional<Reader> reader) {
    if (!reader) {
        return std::nullopt;
    }
    std::string text(reader->size(), '\0');
    for (size_t at = 0;;) {
        const auto got = reader->read(mutable_bytes(text.data() + at, text.size() - at));
        if (!got || *got == 0) {
            break;
        }
        at += *got;
    }
    return reader->verify() ? std::optional(text) : std::nullopt;
}

class ModelIndexTest : public testing::Test {
protected:
    void SetUp() override {
        fs::create_directory(models());
        warnings.clear();
        set_log_sink([](LogLevel level, std::string_view line) {
            const std::lock_guard lock(log_mutex);
            if (level == LogLevel::warning) {
                warnings.emplace_back(line);
            }
        });
    }

    fs::path models() const { return folder_ / "models"; }
    fs::path cache() const { return folder_ / "cache"; }
    fs::path digests() const { return cache() / "caravan" / "digests"; }

    static Result<IndexReport> index(const fs::path & cache, const fs::path & models,
                                     const std::function<bool()> & stop = [] { return false; }) {
        return index_models(cache, {models}, models_to_index(cache, {models}), stop);
    }
    IndexReport index_all() const {
        const auto report = index(cache(), models());
        EXPECT_TRUE(report) << report.error().text;
        return report.value_or(IndexReport{});
    }
    ModelIndex open() const { return ModelIndex(cache(), {models()}); }
    // Forges the digest file of `path`, as a compromised indexer could.
    void forge(const fs::path & path, const fs::path & file, const std::string & bytes) const {
        Blake3 digest;
        digest.update(const_bytes(bytes.data(), bytes.size()));
        const UniqueFd fd(::open(file.c_str(), O_RDONLY));
        ASSERT_TRUE(save_digests(*open_digests(cache()), {path, *FileStamp::of(fd.get()), {{{0, bytes.size()}, hash(bytes),
                                                          digest.hex()}}}));
    }
    std::optional<std::string> get(const std::string & text) const {
        ModelIndex index = open();
        return read(index.find(hash(text), text.size()));
    }

    test::TemporaryFolder folder_;
};

TEST_F(ModelIndexTest, FindsTensorsAndHashesFilesOnce) {
    const std::string a = tensor('a'), b = tensor('b', large + 12345);
    fs::create_directories(models() / "deep" / "down");
    test::write_file(models() / "one.gguf", test::model_of({tensor('s', 1000), a, tensor('t', wire::find_threshold)}));
    test::write_file(models() / "deep" / "down" / "other.gguf", test::model_of({b}));
    test::write_file(models() / "not-a-model.txt", test::model_of({tensor('c')}));
    ModelIndex early = open();
    EXPECT_FALSE(early.find(hash(a), large));
    const IndexReport first = index_all();
    EXPECT_EQ(first.tensors, 2U);
    EXPECT_EQ(first.files, 2U);
    EXPECT_EQ(first.bytes, a.size() + b.size());
    EXPECT_EQ(first.hashed, 2U);
    EXPECT_EQ(read(early.find(hash(a), large)), a) << "digests written after it was opened are used";
    EXPECT_EQ(get(b), b);
    EXPECT_EQ(get(tensor('c')), std::nullopt);
    EXPECT_EQ(get(tensor('t', wire::find_threshold)), std::nullopt) << "clients do not look up tensors of this size";
    EXPECT_FALSE(early.find(hash(a), large - 1));
    EXPECT_FALSE(early.find(hash(a) + 1, large));
    const IndexReport second = index_all();
    EXPECT_EQ(second.hashed, 0U);
    EXPECT_EQ(second.tensors, 2U);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
}

TEST_F(ModelIndexTest, FindsTensorByBlake3) {
    const std::string a = tensor('a');
    test::write_file(models() / "one.gguf", test::model_of({a}));
    index_all();
    Blake3 digest;
    digest.update(const_bytes(a.data(), a.size()));
    const std::string name = digest.hex();
    ModelIndex index = open();
    EXPECT_EQ(read(index.find_digest(name, large)), a);
    EXPECT_FALSE(index.find_digest(name, large + 1));
    EXPECT_FALSE(index.find_digest(std::string(64, '0'), large));
}

TEST_F(ModelIndexTest, DoesNotServeChangedFileUntilItIsIndexedAgain) {
    test::write_file(models() / "one.gguf", test::model_of({tensor('a')}));
    index_all();
    test::write_file(models() / "one.gguf", test::model_of({tensor('b')}));
    EXPECT_EQ(get(tensor('a')), std::nullopt);
    EXPECT_EQ(index_all().hashed, 1U);
    EXPECT_EQ(get(tensor('a')), std::nullopt);
    EXPECT_EQ(get(tensor('b')), tensor('b'));
    fs::remove(models() / "one.gguf");
    EXPECT_EQ(get(tensor('b')), std::nullopt);
    EXPECT_EQ(index_all().tensors, 0U);
    EXPECT_TRUE(fs::is_empty(digests()));
}

TEST_F(ModelIndexTest, DetectsAlterationWithUnchangedStamp) {
    const fs::path path = models() / "one.gguf";
    test::write_file(path, test::model_of({tensor('a')}));
    index_all();
    struct stat before;
    ASSERT_EQ(::stat(path.c_str(), &before), 0);
    {
        std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
        file.seekp(5 << 20);
        file.put('!');
    }
    const timespec times[2] = {before.st_atim, before.st_mtim};
    ASSERT_EQ(::utimensat(AT_FDCWD, path.c_str(), times, 0), 0);
    ModelIndex index = open();
    auto reader = index.find(hash(tensor('a')), large);
    ASSERT_TRUE(reader) << "the stamp is unchanged";
    EXPECT_EQ(read(std::move(reader)), std::nullopt);
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_TRUE(warnings[0].contains(path.string())) << warnings[0];
    EXPECT_TRUE(fs::exists(path));
}

TEST_F(ModelIndexTest, FindsTensorInEitherOfTwoFiles) {
    test::write_file(models() / "one.gguf", test::model_of({tensor('a')}));
    test::write_file(models() / "two.gguf", test::model_of({tensor('b'), tensor('a')}));
    index_all();
    for (const char * gone : {"one.gguf", "two.gguf"}) {
        const fs::path path = models() / gone;
        fs::rename(path, folder_ / "away");
        EXPECT_EQ(get(tensor('a')), tensor('a')) << gone;
        fs::rename(folder_ / "away", path);
    }
}

TEST_F(ModelIndexTest, IgnoresAndRebuildsDamagedDigestFiles) {
    const std::string a = tensor('a');
    test::write_file(models() / "one.gguf", test::model_of({a}));
    index_all();
    const fs::path file = fs::directory_iterator(digests())->path();
    std::string good;
    {
        std::ifstream stream(file, std::ios::binary);
        good.assign(std::istreambuf_iterator<char>(stream), {});
    }
    std::vector<std::string> damaged{"", "nonsense", std::string(10'000, '\n'), std::string(10'000, '\0'), good + "\n"};
    for (size_t length = 0; length < good.size(); length += 7) {
        damaged.push_back(good.substr(0, length));
    }
    for (const std::string & text : damaged) {
        test::write_file(file, text);
        EXPECT_EQ(get(a), std::nullopt) << text;
    }
    EXPECT_EQ(index_all().hashed, 1U);
    EXPECT_EQ(get(a), a);
    // A file with one altered byte is ignored, or yields extents within the model file; reading verifies their digests.
    for (size_t at = 0; at < good.size(); ++at) {
        std::string altered = good;
        altered[at] ^= 1;
        test::write_file(file, altered);
        const auto found = load_digests(file);
        for (const TensorDigest & entry : found ? found->tensors : std::vector<TensorDigest>()) {
            EXPECT_LE(entry.extent.size, found->stamp.size);
            EXPECT_LE(entry.extent.offset, found->stamp.size - entry.extent.size);
        }
    }
    EXPECT_TRUE(warnings.empty()) << warnings.front();
}

TEST_F(ModelIndexTest, ServesOnlyFilesBelowTheDirectories) {
    const std::string a = tensor('a');
    fs::create_directory(folder_ / "models-of-others");
    test::write_file(folder_ / "models-of-others" / "one.gguf", test::model_of({a}));
    ASSERT_TRUE(index(cache(), folder_ / "models-of-others"));
    EXPECT_EQ(get(a), std::nullopt);
    EXPECT_EQ(index_all().tensors, 0U);
    ModelIndex theirs(cache(), {folder_ / "models-of-others"});
    EXPECT_EQ(read(theirs.find(hash(a), large)), a) << "the digests of another server's files are kept";
}

TEST_F(ModelIndexTest, ForgedDigestFileOpensNoOtherFile) {
    const std::string secret = tensor('s'), model = tensor('m');
    test::write_file(folder_ / "secret", secret);
    test::write_file(models() / "no-model.txt", secret);
    test::write_file(models() / "one.gguf", test::model_of({model}));
    index_all();
    for (const fs::path & path : {models() / ".." / "secret", folder_ / "secret", models() / "no-model.txt",
                                  models() / "." / "one.gguf" / ".." / ".." / "secret"}) {
        forge(path, path.filename() == "secret" ? folder_ / "secret" : path, secret);
        EXPECT_EQ(get(secret), std::nullopt) << path;
        EXPECT_EQ(open().targets(), std::vector{models() / "one.gguf"}) << path;
    }
    // In the place of the digest file of a model file.
    forge(models() / ".." / "secret", folder_ / "secret", secret);
    const Layout layout = layout_in(cache());
    fs::rename(digest_file(layout, models() / ".." / "secret"), digest_file(layout, models() / "one.gguf"));
    EXPECT_EQ(get(secret), std::nullopt);
}

TEST_F(ModelIndexTest, DoesNotServeAForgedStockHash) {
    const std::string model = tensor('m');
    test::write_file(models() / "one.gguf", test::model_of({model}));
    index_all();
    const fs::path file = digest_file(layout_in(cache()), models() / "one.gguf");
    auto digests = load_digests(file);
    ASSERT_TRUE(digests);
    digests->tensors[0].fnv = hash(tensor('w'));
    ASSERT_TRUE(save_digests(layout_in(cache()), *digests));
    EXPECT_EQ(get(tensor('w')), std::nullopt) << "the tensor has other weights";
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_TRUE(warnings[0].contains("FNV-1a hash does not match")) << warnings[0];
    ModelIndex index = open();
    EXPECT_EQ(read(index.find_digest(digests->tensors[0].digest, large)), model);
}

TEST_F(ModelIndexTest, DoesNotFollowALinkThatReplacedADirectory) {
    const std::string model = tensor('m');
    fs::create_directory(models() / "below");
    test::write_file(models() / "below" / "one.gguf", test::model_of({model}));
    index_all();
    ModelIndex index = open();
    fs::rename(models() / "below", folder_ / "elsewhere");
    fs::create_directory_symlink(folder_ / "elsewhere", models() / "below");
    EXPECT_FALSE(index.find(hash(model), large));
}

TEST_F(ModelIndexTest, DoesNotFollowLinksOfOtherUsersOutOfTheDirectory) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root can change the owner of a file";
    }
    const auto give_away = [](const fs::path & link) { ASSERT_EQ(::lchown(link.c_str(), 12345, 12345), 0); };
    test::write_file(folder_ / "secret", test::model_of({tensor('s')}));
    test::write_file(models() / "blob", test::model_of({tensor('b')}));
    test::write_file(folder_ / "ours", test::model_of({tensor('o')}));
    fs::create_symlink(folder_ / "secret", models() / "theirs.gguf");
    fs::create_symlink("indirect", models() / "also.gguf");
    fs::create_symlink("../secret", models() / "indirect");
    fs::create_symlink("blob", models() / "inside.gguf");
    fs::create_symlink(folder_ / "ours", models() / "ours.gguf");
    for (const char * link : {"theirs.gguf", "indirect", "inside.gguf"}) {
        give_away(models() / link);
    }
    EXPECT_EQ(index_all().files, 2U);
    EXPECT_EQ(open().targets(), (std::vector{models() / "blob", folder_ / "ours"}));
    EXPECT_EQ(get(tensor('s')), std::nullopt);
    EXPECT_EQ(get(tensor('b')), tensor('b'));
    EXPECT_EQ(get(tensor('o')), tensor('o'));
    EXPECT_EQ(warnings.size(), 2U);
}

TEST_F(ModelIndexTest, SkipsTheStore) {
    const fs::path store = models() / "caravan";
    fs::create_directories(store / "tmp");
    test::write_file(store / "tmp" / "planted.gguf", test::model_of({tensor('p')}));
    fs::create_symlink(store / "tmp" / "planted.gguf", models() / "link.gguf");
    const auto report = index(models(), models());
    ASSERT_TRUE(report);
    EXPECT_EQ(report->files, 0U);
}

TEST_F(ModelIndexTest, FollowsLinksAndIndexesEachFileOnce) {
    const std::string a = tensor('a');
    test::write_file(folder_ / "blob", test::model_of({a}));
    fs::create_symlink(folder_ / "blob", models() / "one.gguf");
    fs::create_symlink(folder_ / "blob", models() / "two.gguf");
    fs::create_symlink(folder_ / "nowhere", models() / "three.gguf");
    fs::create_directory_symlink(models(), models() / "round.gguf");
    EXPECT_EQ(index_all().tensors, 1U);
    EXPECT_EQ(get(a), a);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
}

TEST_F(ModelIndexTest, SkipsInvalidFiles) {
    const std::string a = tensor('a'), model = test::model_of({tensor('b'), a});
    test::write_file(models() / "cut.gguf", std::string_view(model).substr(0, model.size() - 1));
    test::write_file(models() / "empty.gguf", "");
    test::write_file(models() / "good.gguf", test::model_of({a}));
    ASSERT_EQ(::mkfifo((models() / "pipe.gguf").c_str(), 0600), 0);
    EXPECT_EQ(index_all().tensors, 1U);
    EXPECT_EQ(get(a), a);
    EXPECT_EQ(warnings.size(), 2U);
}

TEST_F(ModelIndexTest, KeepsDigestsComputedBeforeAStop) {
    test::write_file(models() / "one.gguf", test::model_of({tensor('a'), tensor('b'), tensor('c')}));
    int calls = 0;
    const auto stopped = index(cache(), models(), [&] { return ++calls > 15; });
    ASSERT_TRUE(stopped);
    EXPECT_EQ(stopped->hashed, 1U);
    EXPECT_EQ(get(tensor('a')), tensor('a'));
    const IndexReport rest = index_all();
    EXPECT_EQ(rest.hashed, 2U);
    EXPECT_EQ(rest.tensors, 3U);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
}

TEST_F(ModelIndexTest, WeightsSearchStoreAndModelFiles) {
    const std::string a = tensor('a'), b = tensor('b');
    test::write_file(models() / "one.gguf", test::model_of({a}));
    index_all();
    Weights weights(WeightOptions{.directory = cache(), .keep = true, .model_dirs = {models()}});
    auto writer = weights.begin(b.size(), Keys::digest_and_fnv);
    ASSERT_TRUE(writer);
    writer->append(const_bytes(b.data(), b.size()));
    ASSERT_TRUE(writer->commit());
    EXPECT_EQ(read(weights.find(hash(a), large)), a);
    EXPECT_EQ(read(weights.find(hash(b), large)), b);
    EXPECT_FALSE(weights.find(hash(a), 1));

    Weights without_store(WeightOptions{.directory = cache(), .model_dirs = {models()}});
    EXPECT_EQ(read(without_store.find(hash(a), large)), a);
    EXPECT_FALSE(without_store.find(hash(b), large));
    EXPECT_FALSE(without_store.begin(large, Keys::digest));

    Weights without_anything(WeightOptions{});
    EXPECT_FALSE(without_anything.find(hash(a), large));
}

TEST_F(ModelIndexTest, UnusableCacheDirectoryIsAnError) {
    test::write_file(folder_ / "file", "x");
    EXPECT_FALSE(index(folder_ / "file", models()));
    EXPECT_FALSE(ModelIndex(folder_ / "file", {models()}).find(1, large)) << "finds nothing, without an error";
}

}  // namespace
}  // namespace caravan::cache
