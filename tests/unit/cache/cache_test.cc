// The weight store: a stored blob can be read back, and nothing else is ever served.
#include "base/formatted.h"
#include "cache/store.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>
#ifdef __linux__
#include <sched.h>
#endif

#include <algorithm>
#include <chrono>
#include <csignal>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <mutex>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

#include "base/log.h"
#include "platform/pages.h"
#include "wire/stock.h"

namespace caravan::cache {
namespace {

namespace fs = std::filesystem;

// Two texts of the same length and FNV-1a, found by lattice reduction.
constexpr std::string_view twin_a(
    "\xd8\x39\x30\x3f\x1e\x20\x54\x1a\x7c\x19\x1a\xce\x6f\x0d\x0e\x6b\x37\xd8\x5a\x97\x40\x19\x0b\xa0", 24);
constexpr std::string_view twin_b(
    "\xd8\x38\x53\x78\x06\x61\x2c\x0f\x69\x09\x29\xc6\x14\x07\x07\x5f\x1f\x28\x48\xec\x43\x38\x1a\xa3", 24);

std::mutex log_mutex;
std::vector<std::string> warnings;

ConstBytes bytes(std::string_view text) { return const_bytes(text.data(), text.size()); }
uint64_t hash(std::string_view text) { return wire::fnv1a(bytes(text)); }

// Pseudo-random bytes: no two chunks are equal.
std::string weights(size_t size, uint32_t seed = 1) {
    std::string text(size, '\0');
    for (char & c : text) {
        seed = seed * 1664525 + 1013904223;
        c = static_cast<char>(seed >> 24);
    }
    return text;
}

bool put(const Store & store, std::string_view text, Keys keys = Keys::digest_and_fnv) {
    auto writer = store.begin(text.size(), keys);
    if (!writer) {
        return false;
    }
    // In pieces of uneven size, as they arrive from a socket.
    for (size_t at = 0, piece = 1; at < text.size(); at += piece, piece = piece * 3 + 1) {
        writer->append(bytes(text.substr(at, piece)));
    }
    return writer->commit();
}

// The verified content; std::nullopt if it is not found or fails verification.
std::optional<std::string> get(const Store & store, uint64_t fnv, uint64_t size) {
    auto reader = store.find(fnv, size);
    if (!reader) {
        return std::nullopt;
    }
    std::string text(size, '\0');
    size_t at = 0;
    for (;;) {
        const auto got = reader->read(mutable_bytes(text.data() + at, text.size() - at));
        if (!got || *got == 0) {
            break;
        }
        at += *got;
    }
    return reader->verify() ? std::optional(text) : std::nullopt;
}

std::optional<std::string> get(const Store & store, std::string_view text) {
    return get(store, hash(text), text.size());
}

std::string contents(const fs::path & path) {
    std::ifstream file(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(file), {}};
}

void overwrite(const fs::path & path, std::string_view text) {
    std::ofstream file(path, std::ios::binary | std::ios::trunc);
    file << text;
    ASSERT_TRUE(file.flush());
}

mode_t mode_of(const fs::path & path) {
    struct stat status {};
    EXPECT_EQ(::stat(path.c_str(), &status), 0) << path;
    return status.st_mode & 07777;
}

class CacheTest : public testing::Test {
protected:
    void SetUp() override {
        std::string name = (fs::temp_directory_path() / "caravan-cache-XXXXXX").string();
        ASSERT_NE(::mkdtemp(name.data()), nullptr);
        directory_ = name;
        warnings.clear();
        set_log_sink([](LogLevel level, std::string_view line) {
            const std::lock_guard lock(log_mutex);
            if (level == LogLevel::warning) {
                warnings.emplace_back(line);
            }
        });
    }

    void TearDown() override {
        std::error_code error;
        fs::remove_all(directory_, error);
        EXPECT_FALSE(error);
    }

    Store open(uint64_t max_bytes = 0) const {
        auto store = Store::open(directory_, max_bytes);
        EXPECT_TRUE(store) << store.error().text;
        return std::move(*store);
    }

    fs::path ours() const { return directory_ / "caravan"; }
    fs::path index_file(std::string_view text) const {
        return ours() / "index" / formatted("{:016x}-{}", hash(text), text.size());
    }
    fs::path blob(std::string_view text) const {
        std::string name = contents(index_file(text));
        name.pop_back();
        return ours() / "blobs" / name;
    }

    // Sets the time of the last use to `minutes` ago.
    void age(std::string_view text, int minutes) const {
        const auto when = fs::file_time_type::clock::now() - std::chrono::minutes(minutes);
        fs::last_write_time(blob(text), when);
        if (const fs::path used = ours() / "used" / blob(text).filename(); fs::exists(used)) {
            fs::last_write_time(used, when);
        }
    }

    // The names of all files in `folder` of the store.
    std::vector<std::string> files(const char * folder) const {
        std::vector<std::string> names;
        for (const auto & entry : fs::directory_iterator(ours() / folder)) {
            names.push_back(entry.path().filename().string());
        }
        return names;
    }

    void expect_empty() const {
        EXPECT_EQ(files("index"), std::vector<std::string>());
        EXPECT_EQ(files("blobs"), std::vector<std::string>());
        EXPECT_EQ(files("tmp"), std::vector<std::string>());
    }

    fs::path directory_;
};

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

TEST_F(CacheTest, StoringAgainRepairsTheBlob) {
    const Store store = open();
    ASSERT_TRUE(put(store, "abc"));
    overwrite(blob("abc"), "abd");
    EXPECT_TRUE(put(store, "abc"));
    EXPECT_EQ(get(store, "abc"), "abc");
}

TEST_F(CacheTest, TwoStoresShareADirectory) {
    const Store one = open();
    auto early = one.begin(3);
    ASSERT_TRUE(early);
    early->append(bytes("ab"));
    const Store two = open();  // must not remove the file of the other store's upload
    early->append(bytes("c"));
    EXPECT_TRUE(early->commit());
    EXPECT_EQ(get(two, "abc"), "abc");
    EXPECT_TRUE(put(two, "abc"));
    EXPECT_TRUE(put(two, "abcd"));
    EXPECT_EQ(get(one, "abcd"), "abcd");
}

TEST_F(CacheTest, ConcurrentProcessesShareADirectory) {
    const Store store = open();
    constexpr uint32_t rounds = 20;
    std::vector<pid_t> children;
    for (uint32_t child = 0; child < 6; ++child) {
        const pid_t pid = ::fork();
        ASSERT_GE(pid, 0);
        if (pid == 0) {
            bool good = true;
            const auto mine = Store::open(directory_);
            for (uint32_t i = 0; mine && i < rounds; ++i) {
                const std::string text = weights(100'000, i);
                good = good && put(*mine, text) && get(*mine, text) == text;
                put(*mine, child % 2 == 0 ? twin_a : twin_b);
            }
            ::_exit(mine && good ? 0 : 1);
        }
        children.push_back(pid);
    }
    for (const pid_t pid : children) {
        int status = -1;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
    }
    for (uint32_t i = 0; i < rounds; ++i) {
        EXPECT_EQ(get(store, weights(100'000, i)), weights(100'000, i));
    }
    const auto twin = get(store, twin_a);
    EXPECT_TRUE(twin == twin_a || twin == twin_b);
    EXPECT_EQ(files("index").size(), rounds + 1);
    EXPECT_EQ(files("blobs").size(), rounds + 1);
    EXPECT_TRUE(files("tmp").empty());
}

TEST_F(CacheTest, RemovesTemporaryFileOfKilledProcess) {
    open();
    const pid_t pid = ::fork();
    ASSERT_GE(pid, 0);
    if (pid == 0) {
        const auto store = Store::open(directory_);
        auto writer = store->begin(3);
        writer->append(bytes("abc"));
        ::kill(::getpid(), SIGKILL);
    }
    int status = 0;
    ASSERT_EQ(::waitpid(pid, &status, 0), pid);
    ASSERT_TRUE(WIFSIGNALED(status));
    EXPECT_TRUE(files("index").empty());
    EXPECT_TRUE(files("blobs").empty());
    ASSERT_EQ(files("tmp").size(), 1U);
    const auto written = [&](std::chrono::minutes ago) {
        fs::last_write_time(ours() / "tmp" / files("tmp").front(), fs::file_time_type::clock::now() - ago);
    };
    open();
    EXPECT_EQ(files("tmp").size(), 1U) << "too recent to be abandoned";
    written(std::chrono::minutes(6));
    open();
    expect_empty();
    const Store store = open();
    auto writer = store.begin(3);
    ASSERT_TRUE(writer);
    written(std::chrono::hours(25));
    open();
    EXPECT_EQ(files("tmp").size(), 1U) << "locked, so in use";
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

TEST_F(CacheTest, RemovalOfTheStoreOnlyFailsTheCommit) {
    const Store store = open();
    auto writer = store.begin(3);
    ASSERT_TRUE(writer);
    writer->append(bytes("ab"));
    fs::remove_all(ours());
    writer->append(bytes("c"));
    EXPECT_FALSE(writer->commit());
    EXPECT_EQ(warnings.size(), 1U);
    EXPECT_FALSE(store.begin(3));
    EXPECT_FALSE(store.find(hash("abc"), 3));
}

// Limits the size of files until the end of the scope.
class FileSizeLimit {
public:
    explicit FileSizeLimit(rlim_t bytes) : old_handler_(std::signal(SIGXFSZ, SIG_IGN)) {
        ::getrlimit(RLIMIT_FSIZE, &old_);
        const rlimit limit{.rlim_cur = bytes, .rlim_max = old_.rlim_max};
        ::setrlimit(RLIMIT_FSIZE, &limit);
    }
    FileSizeLimit(const FileSizeLimit &) = delete;
    ~FileSizeLimit() {
        ::setrlimit(RLIMIT_FSIZE, &old_);
        std::signal(SIGXFSZ, old_handler_);
    }

private:
    void (*old_handler_)(int);
    rlimit old_{};
};

TEST_F(CacheTest, WriteErrorOnlyFailsTheCommit) {
    const Store store = open();
    const std::string text = weights(3 << 20);
    {
        const FileSizeLimit limit(1 << 20);
        auto writer = store.begin(text.size());
        ASSERT_TRUE(writer);
        for (size_t at = 0; at < text.size(); at += 100'000) {
            writer->append(bytes(std::string_view(text).substr(at, 100'000)));
        }
        EXPECT_TRUE(files("tmp").empty()) << "the disk space is freed at once";
        EXPECT_FALSE(writer->commit());
        EXPECT_FALSE(put(store, text)) << "no further attempts";
    }
    expect_empty();
    EXPECT_EQ(warnings.size(), 1U) << "one warning, not one per tensor";
    EXPECT_TRUE(put(open(), text));
    EXPECT_EQ(get(store, text), text);
}

#ifdef __linux__
// Runs `check` in a child process with a private file system of 2 MiB mounted at `directory`. Returns what `check` returns,
// or `no_mount` if mounting is not permitted.
constexpr int no_mount = 77;
template <class Check>
int on_a_small_disk(const fs::path & directory, Check check) {
    const pid_t pid = ::fork();
    if (pid == 0) {
        const auto map = [](const char * file, std::string_view text) { std::ofstream(file) << text; };
        const uid_t user = ::geteuid();
        const gid_t group = ::getegid();
        if (::unshare(CLONE_NEWNS) != 0) {
            if (::unshare(CLONE_NEWUSER | CLONE_NEWNS) != 0) {
                ::_exit(no_mount);
            }
            map("/proc/self/uid_map", formatted("0 {} 1", user));
            map("/proc/self/setgroups", "deny");
            map("/proc/self/gid_map", formatted("0 {} 1", group));
        }
        if (::mount(nullptr, "/", nullptr, MS_REC | MS_PRIVATE, nullptr) != 0 ||
            ::mount("tmpfs", directory.c_str(), "tmpfs", 0, "size=2m,mode=0777") != 0) {
            ::_exit(no_mount);
        }
        ::_exit(check());
    }
    int status = -1;
    EXPECT_EQ(::waitpid(pid, &status, 0), pid);
    EXPECT_TRUE(WIFEXITED(status));
    return WEXITSTATUS(status);
}

TEST_F(CacheTest, FullDiskOnlyFailsTheCommit) {
    const int status = on_a_small_disk(directory_, [this] {
        const Store store = *Store::open(directory_);
        const std::string small = weights(1 << 20), large = weights(3 << 20, 2);
        if (!put(store, small) || put(store, large) || put(store, "abc")) {
            return 1;
        }
        if (warnings.size() != 1 || !warnings[0].contains("No space left on device")) {
            return 2;
        }
        return files("tmp").empty() && files("index").size() == 1 && get(store, small) == small ? 0 : 3;
    });
    if (status == no_mount) {
        GTEST_SKIP() << "no file system can be mounted here";
    }
    EXPECT_EQ(status, 0);
}

TEST_F(CacheTest, ReadsFromAReadOnlyStore) {
    const int status = on_a_small_disk(directory_, [this] {
        const std::string text = weights(100'000);
        if (!put(*Store::open(directory_), text) ||
            ::mount(nullptr, directory_.c_str(), nullptr, MS_REMOUNT | MS_RDONLY, nullptr) != 0) {
            return 1;
        }
        const auto store = Store::open(directory_, 1000);
        if (!store || !store->problem().contains("Read-only file system")) {
            return 2;
        }
        return get(*store, text) == text && !store->begin(3) && warnings.empty() ? 0 : 3;
    });
    if (status == no_mount) {
        GTEST_SKIP() << "no file system can be mounted here";
    }
    EXPECT_EQ(status, 0);
}

TEST_F(CacheTest, DefaultLimitIsAQuarterOfTheDisk) {
    const int status = on_a_small_disk(
        directory_, [this] { return default_limit(directory_ / "not" / "there" / "yet") == 512 << 10 ? 0 : 1; });
    if (status == no_mount) {
        GTEST_SKIP() << "no file system can be mounted here";
    }
    EXPECT_EQ(status, 0);
}
#endif

TEST_F(CacheTest, EvictsTheLeastRecentlyUsedBlob) {
    const Store store = open(10'000);
    const std::string a = weights(4000, 1), b = weights(4000, 2), c = weights(4000, 3), d = weights(4000, 4);
    ASSERT_TRUE(put(store, a));
    ASSERT_TRUE(put(store, b));
    age(a, 20);
    age(b, 10);
    ASSERT_EQ(get(store, a), a);  // counts as a use
    ASSERT_TRUE(put(store, c));
    EXPECT_EQ(get(store, a), a);
    EXPECT_EQ(get(store, b), std::nullopt);
    age(a, 20);
    age(c, 10);
    ASSERT_TRUE(store.find_digest(blob(a).filename().string(), 4000));  // counts as a use
    ASSERT_TRUE(put(store, d));
    EXPECT_EQ(get(store, a), a);
    EXPECT_EQ(get(store, c), std::nullopt);
    EXPECT_EQ(get(store, d), d);
    EXPECT_EQ(files("index").size(), 2U);
    EXPECT_EQ(files("blobs").size(), 2U);
    EXPECT_EQ(files("used").size(), 2U);
    ASSERT_EQ(warnings.size(), 1U);
    EXPECT_TRUE(warnings.front().contains("do not fit into 9.7 KiB")) << warnings.front();
}

// A message of 314 bytes can announce an upload of any size.
TEST_F(CacheTest, EvictsForArrivedNotAnnouncedBytes) {
    constexpr uint64_t mib = 1 << 20;
    const Store store = open(20 * mib);
    for (uint32_t seed = 1; seed <= 5; ++seed) {
        ASSERT_TRUE(put(store, weights(4 * mib, seed)));
        age(weights(4 * mib, seed), 10 - static_cast<int>(seed));
    }
    auto writer = store.begin(19 * mib);
    ASSERT_TRUE(writer);
    EXPECT_EQ(files("blobs").size(), 5U) << "no bytes have arrived";
    writer->append(bytes(weights(mib, 6)));
    EXPECT_EQ(files("blobs").size(), 4U);
    EXPECT_EQ(get(store, weights(4 * mib, 1)), std::nullopt) << "the least recently used blob";
    writer->append(bytes(weights(5 * mib, 7)));
    EXPECT_GE(files("blobs").size(), 2U) << "at most twice the arrived bytes";
    writer->append(bytes(weights(13 * mib, 8)));
    EXPECT_TRUE(writer->commit());
    EXPECT_EQ(files("blobs").size(), 1U);
    EXPECT_EQ(files("index").size(), 1U);
    EXPECT_EQ(warnings.size(), 1U) << "the blobs stored exceed the limit in total";
}

TEST_F(CacheTest, RemovesForeignFiles) {
    ASSERT_TRUE(put(open(), weights(4000)));
    overwrite(ours() / "blobs" / "foreign", weights(9000, 2));
    overwrite(ours() / "index" / "0000000000000000-5", weights(9000, 3));
    const Store store = open(10'000);
    ASSERT_TRUE(put(store, weights(5000, 4)));
    EXPECT_EQ(get(store, weights(4000)), weights(4000)) << "both fit";
    EXPECT_EQ(files("blobs").size(), 2U);
    EXPECT_EQ(files("index").size(), 2U);
}

TEST_F(CacheTest, RemovesFilesWithoutABlob) {
    const std::string kept = weights(4000), other(64, 'a');
    ASSERT_TRUE(put(open(), kept));
    ASSERT_EQ(get(open(), kept), kept);
    const std::string digest = blob(kept).filename();
    overwrite(ours() / "blobs" / other, "");
    overwrite(ours() / "index" / "0000000000000001-4000", other + "\n");
    overwrite(ours() / "index" / "name", digest + "\n");
    overwrite(ours() / "used" / other, "");
    const Store store = open();
    EXPECT_EQ(files("blobs"), std::vector{digest});
    EXPECT_EQ(files("used"), std::vector{digest});
    EXPECT_EQ(files("index").size(), 1U);
    EXPECT_EQ(get(store, kept), kept);
    for (const char * forged : {"0000000000000001-4000", "0000000000000002-4000"}) {
        overwrite(ours() / "index" / forged, digest + "\n");
    }
    const Store later = open();
    EXPECT_TRUE(files("index").empty()) << "one content has one hash";
    EXPECT_EQ(get(later, kept), kept) << "which is found again";
    EXPECT_EQ(files("index").size(), 1U);
}

#ifdef __linux__
TEST_F(CacheTest, CountsBlocksBeyondTheEndOfAFile) {
    constexpr uint64_t mib = 1 << 20;
    ASSERT_TRUE(put(open(), weights(4000)));
    const fs::path planted = ours() / "blobs" / std::string(64, 'a');
    overwrite(planted, "a");
    const UniqueFd fd(::open(planted.c_str(), O_WRONLY));
    if (::fallocate(fd.get(), FALLOC_FL_KEEP_SIZE, 0, 8 * mib) != 0) {
        GTEST_SKIP() << "this file system cannot";
    }
    fs::last_write_time(planted, fs::file_time_type::clock::now() - std::chrono::minutes(10));
    const Store store = open(4 * mib);
    EXPECT_FALSE(fs::exists(planted));
    EXPECT_EQ(get(store, weights(4000)), weights(4000));
}

TEST_F(CacheTest, ReplacesABlobThatIsBeingEvicted) {
    const std::string text = weights(4000);
    const Store store = open();
    ASSERT_TRUE(put(store, text));
    overwrite(blob(text), "damaged");
    const UniqueFd locked(::open(blob(text).c_str(), O_RDONLY));
    ASSERT_EQ(::flock(locked.get(), LOCK_EX | LOCK_NB), 0);
    ASSERT_TRUE(put(store, text));
    EXPECT_EQ(contents(blob(text)), text);
}
#endif

TEST_F(CacheTest, UploadThatCannotFitEvictsNothing) {
    const Store store = open(10'000);
    ASSERT_TRUE(put(store, weights(2000)));
    auto one = store.begin(6000), other = store.begin(6000), third = store.begin(6000);
    ASSERT_TRUE(one && other && third);
    one->append(bytes(weights(5000, 2)));
    for (Writer * late : {&*other, &*third}) {
        late->append(bytes(weights(6000, 3)));
        EXPECT_FALSE(late->commit());
    }
    EXPECT_EQ(warnings.size(), 1U) << "one warning, not one per tensor";
    EXPECT_EQ(get(store, weights(2000)), weights(2000));
    EXPECT_EQ(files("tmp").size(), 1U);
    one->append(bytes(weights(1000, 4)));
    EXPECT_TRUE(one->commit());
}

TEST_F(CacheTest, BlobLargerThanTheLimitEvictsNothing) {
    const Store store = open(10'000);
    ASSERT_TRUE(put(store, weights(10'000)));
    EXPECT_FALSE(store.begin(10'001));
    EXPECT_EQ(get(store, weights(10'000)), weights(10'000));
    EXPECT_EQ(warnings.size(), 1U) << "the blob alone exceeds the limit";
}

TEST_F(CacheTest, WarnsOnceIfTheWeightsExceedTheLimit) {
    const Store store = open(25);
    for (const char * text : {"0123456789", "abcdefghij", "0123456789"}) {
        ASSERT_TRUE(put(store, text));
    }
    EXPECT_TRUE(get(store, "abcdefghij"));
    EXPECT_TRUE(warnings.empty()) << warnings.front();
    for (const char * text : {"ABCDEFGHIJ", "KLMNOPQRST"}) {
        ASSERT_TRUE(put(store, text));
    }
    ASSERT_EQ(warnings.size(), 1u);
    EXPECT_TRUE(warnings.front().contains("do not fit into 25 bytes")) << warnings.front();
    EXPECT_TRUE(warnings.front().contains("--cache-size")) << warnings.front();
}

TEST_F(CacheTest, CountsFoundWeightsOfEarlierSessions) {
    ASSERT_TRUE(put(open(25), "0123456789"));
    const Store later = open(25);
    ASSERT_TRUE(put(later, "abcdefghij"));
    EXPECT_TRUE(get(later, "0123456789"));
    EXPECT_TRUE(warnings.empty());
    ASSERT_TRUE(put(later, "ABCDEFGHIJ"));
    EXPECT_EQ(warnings.size(), 1u);
    EXPECT_FALSE(open(25).begin(26));
    EXPECT_EQ(warnings.size(), 2u) << "a single tensor exceeds the limit";
}

TEST_F(CacheTest, OpeningWithASmallerLimitEvicts) {
    {
        const Store store = open();
        for (const uint32_t seed : {1, 2, 3}) {
            ASSERT_TRUE(put(store, weights(4000, seed)));
            age(weights(4000, seed), 10 - static_cast<int>(seed));
        }
    }
    const Store store = open(5000);
    EXPECT_EQ(files("blobs").size(), 1U);
    EXPECT_EQ(files("index").size(), 1U);
    EXPECT_EQ(get(store, weights(4000, 3)), weights(4000, 3));
}

TEST_F(CacheTest, EvictedBlobCanBeReadToTheEnd) {
    const Store store = open(10'000);
    const std::string text = weights(6000);
    ASSERT_TRUE(put(store, text));
    auto reader = store.find(hash(text), text.size());
    ASSERT_TRUE(reader);
    ASSERT_TRUE(put(store, weights(6000, 2)));
    EXPECT_FALSE(store.find(hash(text), text.size()));
    std::string to(text.size(), '\0');
    EXPECT_EQ(reader->read(mutable_bytes(to.data(), to.size())).value_or(0), to.size());
    EXPECT_TRUE(reader->verify());
    EXPECT_EQ(to, text);
}

TEST_F(CacheTest, ConcurrentUploadsEndBelowTheLimit) {
    const Store store = open(10'000);
    auto one = store.begin(4000), other = store.begin(4000);
    ASSERT_TRUE(one && other);
    ASSERT_TRUE(put(store, weights(6000, 3)));
    one->append(bytes(weights(4000, 1)));
    other->append(bytes(weights(4000, 2)));
    EXPECT_TRUE(one->commit());
    EXPECT_TRUE(other->commit());
    EXPECT_EQ(files("blobs").size(), 2U);
}

TEST_F(CacheTest, ConcurrentProcessesStayBelowTheLimit) {
    constexpr uint64_t limit = 500'000;
    open(limit);
    std::vector<pid_t> children;
    for (uint32_t child = 0; child < 4; ++child) {
        const pid_t pid = ::fork();
        ASSERT_GE(pid, 0);
        if (pid == 0) {
            const auto mine = Store::open(directory_, limit);
            for (uint32_t i = 0; i < 50; ++i) {
                const std::string text = weights(100'000, i * (child + 1) % 20);
                put(*mine, text);
                if (const auto back = get(*mine, text); back && back != text) {
                    ::_exit(1);
                }
            }
            ::_exit(0);
        }
        children.push_back(pid);
    }
    for (const pid_t pid : children) {
        int status = -1;
        ASSERT_EQ(::waitpid(pid, &status, 0), pid);
        EXPECT_EQ(status, 0);
    }
    EXPECT_LE(files("blobs").size(), 5U);
    EXPECT_GE(files("blobs").size(), 1U);
    EXPECT_TRUE(files("tmp").empty());
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

TEST_F(CacheTest, WriteErrorOfTheIndexFileLeavesNoBlob) {
    const Store store = open();
    {
        const FileSizeLimit limit(10);  // enough for the blob, not for its index file
        EXPECT_FALSE(put(store, "abc"));
    }
    expect_empty();
    EXPECT_EQ(warnings.size(), 1U);
}

// Sets a variable, or unsets it if `value` is null, until the end of the scope.
class Variable {
public:
    Variable(const char * name, const char * value) : name_(name) {
        if (const char * old = std::getenv(name)) {
            old_ = old;
        }
        set(value);
    }
    Variable(const Variable &) = delete;
    ~Variable() { set(old_ ? old_->c_str() : nullptr); }

    void set(const char * value) const {
        if (value != nullptr) {
            ::setenv(name_, value, 1);
        } else {
            ::unsetenv(name_);
        }
    }

private:
    const char * name_;
    std::optional<std::string> old_;
};

TEST(CacheDirectory, UsesTheVariablesOfLlamaCpp) {
    const Variable llama("LLAMA_CACHE", "/llama");
    const Variable xdg("XDG_CACHE_HOME", "/xdg");
    const Variable home("HOME", "/home/me");
    EXPECT_EQ(default_directory().value_or(""), "/llama/rpc");
    for (const char * unset : {"", static_cast<const char *>(nullptr)}) {
        llama.set(unset);
#ifdef __APPLE__
        EXPECT_EQ(default_directory().value_or(""), "/home/me/Library/Caches/llama.cpp/rpc");
        xdg.set(unset);
#else
        xdg.set("/xdg");
        EXPECT_EQ(default_directory().value_or(""), "/xdg/llama.cpp/rpc");
        xdg.set(unset);
        EXPECT_EQ(default_directory().value_or(""), "/home/me/.cache/llama.cpp/rpc");
#endif
        home.set(unset);
        EXPECT_FALSE(default_directory());
        home.set("/home/me");
    }
}

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
