// Tensors of model files: found by hash as long as the file is what it was, and never hashed twice.
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
#include "cache/indexer.h"
#include "base/unique_fd.h"
#include "cache/weights.h"
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

// What a caller would trust.
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
    IndexReport look() const {
        const auto report = index(cache(), models());
        EXPECT_TRUE(report) << report.error().text;
        return report.value_or(IndexReport{});
    }
    ModelIndex open() const { return ModelIndex(cache(), {models()}); }
    // As a process would write it that has found a hole in us.
    void plant(const fs::path & path, const fs::path & file, const std::string & bytes) const {
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

TEST_F(ModelIndexTest, TensorsAreFoundAndHashedOnce) {
    const std::string a = tensor('a'), b = tensor('b', large + 12345);
    fs::create_directories(models() / "deep" / "down");
    test::write_file(models() / "one.gguf", test::model_of({tensor('s', 1000), a, tensor('t', wire::find_threshold)}));
    test::write_file(models() / "deep" / "down" / "other.gguf", test::model_of({b}));
    test::write_file(models() / "not-a-model.txt", test::model_of({tensor('c')}));
    ModelIndex early = open();
    EXPECT_FALSE(early.find(hash(a), large));
    const IndexReport first = look();
    EXPECT_EQ(first.tensors, 2U);
    EXPECT_EQ(first.files, 2U);
    EXPECT_EQ(first.bytes, a.size() + b.size());
    EXPECT_EQ(first.hashed, 2U);
    EXPECT_EQ(read(early.find(hash(a), large)), a) << "what was written down later is seen";
    EXPECT_EQ(get(b), b);
    EXPECT_EQ(get(tensor('c')), std::nullopt);
    EXPECT_EQ(get(tensor('t', wire::find_threshold)), std::nullopt) << "clients do not ask for these";
    EXPECT_FALSE(early.find(hash(a), large - 1));
    EXPECT_FALSE(early.find(hash(a) + 1, large));
    const IndexReport second = look();
    EXPECT_EQ(second.hashed, 0U);
    EXPECT_EQ(second.tensors, 2U);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
}

TEST_F(ModelIndexTest, FoundByBlake3) {
    const std::string a = tensor('a');
    test::write_file(models() / "one.gguf", test::model_of({a}));
    look();
    Blake3 digest;
    digest.update(const_bytes(a.data(), a.size()));
    const std::string name = digest.hex();
    ModelIndex index = open();
    EXPECT_EQ(read(index.find_digest(name, large)), a);
    EXPECT_FALSE(index.find_digest(name, large + 1));
    EXPECT_FALSE(index.find_digest(std::string(64, '0'), large));
}

TEST_F(ModelIndexTest, FileThatChangedIsNotServedUntilItIsLookedThroughAgain) {
    test::write_file(models() / "one.gguf", test::model_of({tensor('a')}));
    look();
    test::write_file(models() / "one.gguf", test::model_of({tensor('b')}));
    EXPECT_EQ(get(tensor('a')), std::nullopt);
    EXPECT_EQ(look().hashed, 1U);
    EXPECT_EQ(get(tensor('a')), std::nullopt);
    EXPECT_EQ(get(tensor('b')), tensor('b'));
    fs::remove(models() / "one.gguf");
    EXPECT_EQ(get(tensor('b')), std::nullopt);
    EXPECT_EQ(look().tensors, 0U);
    EXPECT_TRUE(fs::is_empty(digests()));
}

TEST_F(ModelIndexTest, AlterationThatLeavesNoTraceIsNoticedWhenRead) {
    const fs::path path = models() / "one.gguf";
    test::write_file(path, test::model_of({tensor('a')}));
    look();
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
    ASSERT_TRUE(reader) << "the file looks as before";
    EXPECT_EQ(read(std::move(reader)), std::nullopt);
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_TRUE(warnings[0].contains(path.string())) << warnings[0];
    EXPECT_TRUE(fs::exists(path));
}

TEST_F(ModelIndexTest, OneOfTwoCopiesIsEnough) {
    test::write_file(models() / "one.gguf", test::model_of({tensor('a')}));
    test::write_file(models() / "two.gguf", test::model_of({tensor('b'), tensor('a')}));
    look();
    for (const char * gone : {"one.gguf", "two.gguf"}) {
        const fs::path path = models() / gone;
        fs::rename(path, folder_ / "away");
        EXPECT_EQ(get(tensor('a')), tensor('a')) << gone;
        fs::rename(folder_ / "away", path);
    }
}

TEST_F(ModelIndexTest, DamagedDigestsAreIgnoredAndMadeAnew) {
    const std::string a = tensor('a');
    test::write_file(models() / "one.gguf", test::model_of({a}));
    look();
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
    EXPECT_EQ(look().hashed, 1U);
    EXPECT_EQ(get(a), a);
    // Every altered byte leads to nothing or to bytes that are not what they should be, and are not taken for it.
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

TEST_F(ModelIndexTest, OnlyFilesBelowTheDirectoriesAreServed) {
    const std::string a = tensor('a');
    fs::create_directory(folder_ / "models-of-others");
    test::write_file(folder_ / "models-of-others" / "one.gguf", test::model_of({a}));
    ASSERT_TRUE(index(cache(), folder_ / "models-of-others"));
    EXPECT_EQ(get(a), std::nullopt);
    EXPECT_EQ(look().tensors, 0U);
    ModelIndex theirs(cache(), {folder_ / "models-of-others"});
    EXPECT_EQ(read(theirs.find(hash(a), large)), a) << "and another server's digests stay";
}

TEST_F(ModelIndexTest, PlantedDigestsOpenNoFileThatWasNotFound) {
    const std::string secret = tensor('s'), model = tensor('m');
    test::write_file(folder_ / "secret", secret);
    test::write_file(models() / "no-model.txt", secret);
    test::write_file(models() / "one.gguf", test::model_of({model}));
    look();
    for (const fs::path & path : {models() / ".." / "secret", folder_ / "secret", models() / "no-model.txt",
                                  models() / "." / "one.gguf" / ".." / ".." / "secret"}) {
        plant(path, path.filename() == "secret" ? folder_ / "secret" : path, secret);
        EXPECT_EQ(get(secret), std::nullopt) << path;
        EXPECT_EQ(open().targets(), std::vector{models() / "one.gguf"}) << path;
    }
    // Under the name of a file that was found, by what that file's own digests are kept as.
    plant(models() / ".." / "secret", folder_ / "secret", secret);
    const Layout layout = layout_in(cache());
    fs::rename(digest_file(layout, models() / ".." / "secret"), digest_file(layout, models() / "one.gguf"));
    EXPECT_EQ(get(secret), std::nullopt);
}

TEST_F(ModelIndexTest, ForgedStockHashIsNotServed) {
    const std::string model = tensor('m');
    test::write_file(models() / "one.gguf", test::model_of({model}));
    look();
    const fs::path file = digest_file(layout_in(cache()), models() / "one.gguf");
    auto digests = load_digests(file);
    ASSERT_TRUE(digests);
    digests->tensors[0].fnv = hash(tensor('w'));
    ASSERT_TRUE(save_digests(layout_in(cache()), *digests));
    EXPECT_EQ(get(tensor('w')), std::nullopt) << "these are other weights";
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_TRUE(warnings[0].contains("another FNV-1a hash")) << warnings[0];
    ModelIndex index = open();
    EXPECT_EQ(read(index.find_digest(digests->tensors[0].digest, large)), model);
}

TEST_F(ModelIndexTest, LinkThatTookAFilesPlaceIsNotFollowed) {
    const std::string model = tensor('m');
    fs::create_directory(models() / "below");
    test::write_file(models() / "below" / "one.gguf", test::model_of({model}));
    look();
    ModelIndex index = open();
    fs::rename(models() / "below", folder_ / "elsewhere");
    fs::create_directory_symlink(folder_ / "elsewhere", models() / "below");
    EXPECT_FALSE(index.find(hash(model), large));
}

TEST_F(ModelIndexTest, LinksOfOtherUsersLeadNowhereOutside) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root gives files away";
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
    EXPECT_EQ(look().files, 2U);
    EXPECT_EQ(open().targets(), (std::vector{models() / "blob", folder_ / "ours"}));
    EXPECT_EQ(get(tensor('s')), std::nullopt);
    EXPECT_EQ(get(tensor('b')), tensor('b'));
    EXPECT_EQ(get(tensor('o')), tensor('o'));
    EXPECT_EQ(warnings.size(), 2U);
}

TEST_F(ModelIndexTest, TheStoreIsNotSearched) {
    const fs::path store = models() / "caravan";
    fs::create_directories(store / "tmp");
    test::write_file(store / "tmp" / "planted.gguf", test::model_of({tensor('p')}));
    fs::create_symlink(store / "tmp" / "planted.gguf", models() / "link.gguf");
    const auto report = index(models(), models());
    ASSERT_TRUE(report);
    EXPECT_EQ(report->files, 0U);
}

TEST_F(ModelIndexTest, SymbolicLinksToFilesAreFollowedAndCountOnce) {
    const std::string a = tensor('a');
    test::write_file(folder_ / "blob", test::model_of({a}));
    fs::create_symlink(folder_ / "blob", models() / "one.gguf");
    fs::create_symlink(folder_ / "blob", models() / "two.gguf");
    fs::create_symlink(folder_ / "nowhere", models() / "three.gguf");
    fs::create_directory_symlink(models(), models() / "round.gguf");
    EXPECT_EQ(look().tensors, 1U);
    EXPECT_EQ(get(a), a);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
}

TEST_F(ModelIndexTest, BadFilesDoNotHinderGoodOnes) {
    const std::string a = tensor('a'), model = test::model_of({tensor('b'), a});
    test::write_file(models() / "cut.gguf", std::string_view(model).substr(0, model.size() - 1));
    test::write_file(models() / "empty.gguf", "");
    test::write_file(models() / "good.gguf", test::model_of({a}));
    ASSERT_EQ(::mkfifo((models() / "pipe.gguf").c_str(), 0600), 0);
    EXPECT_EQ(look().tensors, 1U);
    EXPECT_EQ(get(a), a);
    EXPECT_EQ(warnings.size(), 2U);
}

TEST_F(ModelIndexTest, WhatWasDoneBeforeAStopStays) {
    test::write_file(models() / "one.gguf", test::model_of({tensor('a'), tensor('b'), tensor('c')}));
    int pieces = 0;
    const auto stopped = index(cache(), models(), [&] { return ++pieces > 15; });
    ASSERT_TRUE(stopped);
    EXPECT_EQ(stopped->hashed, 1U);
    EXPECT_EQ(get(tensor('a')), tensor('a'));
    const IndexReport rest = look();
    EXPECT_EQ(rest.hashed, 2U);
    EXPECT_EQ(rest.tensors, 3U);
    EXPECT_TRUE(warnings.empty()) << warnings.front();
}

TEST_F(ModelIndexTest, StoreAndModelFilesTogether) {
    const std::string a = tensor('a'), b = tensor('b');
    test::write_file(models() / "one.gguf", test::model_of({a}));
    look();
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

TEST_F(ModelIndexTest, DirectoryThatCannotBeMadeIsAnError) {
    test::write_file(folder_ / "file", "x");
    EXPECT_FALSE(index(folder_ / "file", models()));
    EXPECT_FALSE(ModelIndex(folder_ / "file", {models()}).find(1, large)) << "nothing is found, and nothing fails";
}

}  // namespace
}  // namespace caravan::cache
