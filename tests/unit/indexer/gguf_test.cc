// GGUF files: valid ones are read as ggml reads them, invalid ones are rejected safely.
#include "indexer/gguf.h"

#include <fcntl.h>
#include <gtest/gtest.h>

#include <filesystem>
#include <string>

#include "gguf.h"
#include "platform/unique_fd.h"
#include "support/gguf_bytes.h"
#include "support/temporary_folder.h"

namespace caravan::cache {
namespace {

using test::GgufBytes;

constexpr uint32_t f32 = 0, q8_0 = 8, removed_type = 4, int8 = 24;
constexpr uint32_t u32_value = 4, string_value = 8, array_value = 9;

struct File {
    explicit File(std::string_view bytes) {
        test::write_file(folder / "model.gguf", bytes);
        fd.reset(::open((folder / "model.gguf").c_str(), O_RDONLY));
    }
    test::TemporaryFolder folder;
    UniqueFd fd;
};

Result<std::vector<Extent>> find(std::string_view bytes, uint64_t threshold = 0) {
    const File file(bytes);
    return find_tensors(file.fd.get(), bytes.size(), threshold);
}

std::string error_of(std::string_view bytes) {
    const auto found = find(bytes);
    return found ? "none" : found.error().text;
}

TEST(Gguf, FindsTensorsWhereGgmlDoes) {
    const std::filesystem::path model = std::filesystem::path(CARAVAN_MODELS) / "scribe-5m-q8_0.gguf";
    gguf_context * gguf = gguf_init_from_file(model.c_str(), {.no_alloc = true, .ctx = nullptr});
    ASSERT_NE(gguf, nullptr);
    std::vector<Extent> wanted;
    for (int64_t i = 0; i < gguf_get_n_tensors(gguf); ++i) {
        wanted.push_back({gguf_get_data_offset(gguf) + gguf_get_tensor_offset(gguf, i), gguf_get_tensor_size(gguf, i)});
    }
    gguf_free(gguf);
    ASSERT_GT(wanted.size(), 10U);
    const UniqueFd fd(::open(model.c_str(), O_RDONLY));
    const auto found = find_tensors(fd.get(), std::filesystem::file_size(model), 0);
    ASSERT_TRUE(found) << found.error().text;
    EXPECT_EQ(*found, wanted);
}

TEST(Gguf, ReturnsTensorsLargerThanTheThreshold) {
    const std::string model = test::model_of({std::string(100, 'a'), std::string(101, 'b'), std::string(99, 'c')});
    const auto found = find(model, 100);
    ASSERT_TRUE(found);
    ASSERT_EQ(found->size(), 1U);
    EXPECT_EQ(model.substr(found->front().offset, found->front().size), std::string(101, 'b'));
}

TEST(Gguf, SkipsValuesOfEveryType) {
    GgufBytes file;
    file.start(1, 17, 2);
    const int sizes[] = {1, 1, 2, 2, 4, 4, 4, 1, 0, 0, 8, 8, 8};
    for (uint32_t type = 0; type < 13; ++type) {
        if (sizes[type] == 0) {
            continue;
        }
        file.text("number").number(type).raw(std::string(static_cast<size_t>(sizes[type]), 'x'));
    }
    file.text("a string").number(string_value).text("general.alignment");
    file.text("strings").number(array_value).number(string_value).number<uint64_t>(2).text("one").text("");
    file.text("numbers").number(array_value).number(u32_value).number<uint64_t>(3).raw("123412341234");
    file.text("none").number(array_value).number(u32_value).number<uint64_t>(0);
    file.text("general.alignment").number(u32_value).number<uint32_t>(64);
    file.text("long").number(string_value).text(std::string(200'000, 'y'));
    file.tensor("t", {32, 2}, q8_0, 0).pad(64);
    const size_t data = file.str().size();
    const auto found = find(file.raw(std::string(68, 'z')).str());
    ASSERT_TRUE(found) << found.error().text;
    EXPECT_EQ(*found, std::vector<Extent>({{data, 68}}));
}

TEST(Gguf, RejectsOtherFilesAndVersions) {
    EXPECT_EQ(error_of(""), "its header is truncated");
    EXPECT_EQ(error_of("GGUF"), "its header is truncated");
    EXPECT_EQ(error_of(std::string(100, '\0')), "it is not a GGUF file");
    EXPECT_EQ(error_of(GgufBytes().start(0, 0, 1).str()), "GGUF version 1 is not supported");
    EXPECT_EQ(error_of(GgufBytes().start(0, 0, 0x03000000).str()), "GGUF version 50331648 is not supported");
    EXPECT_EQ(error_of(GgufBytes().start(0, 0).str()), "none");
}

TEST(Gguf, RejectsInvalidTensors) {
    const auto with = [](const std::vector<uint64_t> & ne, uint32_t type, uint64_t offset) {
        return error_of(GgufBytes().start(1, 0).tensor("t", ne, type, offset).pad().raw(std::string(640, 'x')).str());
    };
    constexpr uint64_t huge = uint64_t{1} << 63;
    EXPECT_EQ(with({16}, f32, 0), "none");
    EXPECT_EQ(with({1, 1, 1, 1, 1}, f32, 0), "a tensor has 5 dimensions, more than 4");
    EXPECT_EQ(with({1}, 1000, 0), "tensor type 1000 is unknown");
    EXPECT_EQ(with({32}, removed_type, 0), "tensor type 4 is unknown");
    EXPECT_EQ(with({31}, q8_0, 0), "a tensor has an invalid shape");
    EXPECT_EQ(with({huge}, f32, 0), "a tensor has an invalid shape");
    EXPECT_EQ(with({1 << 20, 1 << 20, 1 << 20, 1 << 20}, int8, 0), "a tensor has an invalid shape");
    EXPECT_EQ(with({huge, 2, 0}, int8, 0), "a tensor has an invalid shape");
    EXPECT_EQ(with({16}, f32, ~uint64_t{0}), "its tensors overlap or are out of order");
    EXPECT_EQ(with({16}, f32, 640), "it is truncated");
    EXPECT_EQ(with({huge}, int8, 0), "it is truncated");
}

TEST(Gguf, RejectsOverlappingTensors) {
    GgufBytes file;
    file.start(2, 0).tensor("a", {64}, int8, 0).tensor("b", {64}, int8, 32).pad().raw(std::string(640, 'x'));
    EXPECT_EQ(error_of(file.str()), "its tensors overlap or are out of order");
}

TEST(Gguf, RejectsHugeCountsAndLengthsAtOnce) {
    constexpr uint64_t huge = ~uint64_t{0};
    EXPECT_EQ(error_of(GgufBytes().start(huge, 0).str()), "its header is truncated");
    EXPECT_EQ(error_of(GgufBytes().start(0, huge).str()), "its header is truncated");
    EXPECT_EQ(error_of(GgufBytes().start(0, 1).number(huge).str()), "its header is truncated");
    EXPECT_EQ(error_of(GgufBytes().start(0, 1).text("k").number(string_value).number(huge).str()),
              "its header is truncated");
    const auto array = [](uint32_t element, uint64_t count) {
        return error_of(
            GgufBytes().start(0, 1).text("k").number(array_value).number(element).number(count).str());
    };
    EXPECT_EQ(array(u32_value, huge), "its header is truncated");
    EXPECT_EQ(array(10, uint64_t{1} << 61), "its header is truncated") << "8 bytes each: 2^64 bytes";
    EXPECT_EQ(array(string_value, huge), "its header is truncated");
    EXPECT_EQ(array(array_value, 1), "an array has an unknown element type");
    EXPECT_EQ(array(13, 1), "an array has an unknown element type");
    EXPECT_EQ(error_of(GgufBytes().start(0, 1).text("k").number<uint32_t>(13).str()), "a value has an unknown type");
}

TEST(Gguf, AlignmentMustBeAPowerOfTwo) {
    const auto with = [](uint32_t alignment) {
        return error_of(
            GgufBytes().start(0, 1).text("general.alignment").number(u32_value).number(alignment).str());
    };
    EXPECT_EQ(with(1), "none");
    EXPECT_EQ(with(0), "its alignment, 0, is not a power of two");
    EXPECT_EQ(with(48), "its alignment, 48, is not a power of two");
    EXPECT_EQ(with(uint32_t{1} << 31), "none") << "there is no tensor to align";
}

TEST(Gguf, RejectsSparseFileWithAnEndlessHeader) {
    const File file(GgufBytes().start(~uint64_t{0}, ~uint64_t{0}).str());
    const std::filesystem::path path = file.folder / "model.gguf";
    std::filesystem::resize_file(path, uint64_t{1} << 40);
    const auto found = find_tensors(file.fd.get(), uint64_t{1} << 40, 0);
    ASSERT_FALSE(found);
    EXPECT_EQ(found.error().text, "its header is truncated");
}

// The tensors found, if any, lie within the file, in order, without overlaps.
void expect_harmless(const std::string & bytes) {
    const auto found = find(bytes);
    uint64_t end = 0;
    for (const Extent & tensor : found.value_or({})) {
        ASSERT_GE(tensor.offset, end);
        ASSERT_LE(tensor.offset, bytes.size());
        ASSERT_LE(tensor.size, bytes.size() - tensor.offset);
        end = tensor.offset + tensor.size;
    }
}

TEST(Gguf, TruncatedOrAlteredFilesAreHarmless) {
    GgufBytes file;
    file.start(2, 3);
    file.text("general.alignment").number(u32_value).number<uint32_t>(16);
    file.text("names").number(array_value).number(string_value).number<uint64_t>(2).text("one").text("two");
    file.text("k").number(string_value).text("v");
    file.tensor("a", {32, 2}, q8_0, 0).tensor("b", {8}, f32, 80).pad(16).raw(std::string(112, 'x'));
    const std::string good = file.str();
    ASSERT_TRUE(find(good)) << find(good).error().text;
    for (size_t length = 0; length < good.size(); ++length) {
        EXPECT_FALSE(find(std::string_view(good).substr(0, length))) << length;
    }
    for (size_t at = 0; at < good.size() - 112; ++at) {
        for (const int value : {0x00, 0x01, 0x7f, 0x80, 0xff}) {
            std::string altered = good;
            altered[at] = static_cast<char>(value);
            expect_harmless(altered);
        }
    }
}

}  // namespace
}  // namespace caravan::cache
