#include "indexer/gguf.h"

#include <algorithm>
#include <array>
#include <bit>
#include <optional>
#include <string>
#include <string_view>

#include "base/bytes.h"
#include "base/formatted.h"
#include "ggml.h"
#include "platform/file.h"

namespace caravan::cache {
namespace {

constexpr uint32_t magic = 0x46554747;  // "GGUF"
// Bytes. The header of a real model, vocabulary included, has tens of MiB at most.
constexpr uint64_t max_header = 256 << 20;
constexpr std::string_view alignment_key = "general.alignment";
constexpr uint64_t default_alignment = 32;

enum class Type : uint32_t {
    u8, i8, u16, i16, u32, i32, f32, boolean, string, array, u64, i64, f64,
};

// Bytes; 0 for types without a fixed size.
uint64_t size_of(Type type) {
    switch (type) {
        case Type::u8:
        case Type::i8:
        case Type::boolean: return 1;
        case Type::u16:
        case Type::i16: return 2;
        case Type::u32:
        case Type::i32:
        case Type::f32: return 4;
        case Type::u64:
        case Type::i64:
        case Type::f64: return 8;
        case Type::string:
        case Type::array: break;
    }
    return 0;
}

// A cursor over the header, from its first byte. After the first error, ok() is false and all numbers read are 0.
class Header {
public:
    Header(Descriptor file, uint64_t file_size) : file_(file), limit_(std::min(file_size, max_header)) {}

    bool ok() const { return !error_; }
    std::unexpected<Error> error() const { return std::unexpected(*error_); }
    uint64_t position() const { return position_; }

    template <class T>
    T number() {
        std::array<std::byte, sizeof(T)> raw{};
        copy(raw);
        return load<T>(raw.data());
    }

    void skip(uint64_t count, uint64_t each = 1) {
        uint64_t bytes = 0;
        if (ok() && (__builtin_mul_overflow(count, each, &bytes) || bytes > limit_ - position_)) {
            set_error(Errc::invalid_argument, "its header is truncated");
        }
        if (ok()) {
            position_ += bytes;
        }
    }

    void skip_string() { skip(number<uint64_t>()); }

    // Reads a string, and returns true if it equals `text`.
    bool string_is(std::string_view text) {
        const auto length = number<uint64_t>();
        if (length != text.size()) {
            skip(length);
            return false;
        }
        std::string got(length, '\0');
        copy(mutable_bytes(got.data(), got.size()));
        return ok() && got == text;
    }

    void set_error(Errc code, std::string text) {
        if (!error_) {
            error_ = Error{code, std::move(text)};
        }
    }

private:
    void copy(MutableBytes to) {
        while (!to.empty() && ok()) {
            if (position_ < window_start_ || position_ >= window_start_ + window_size_) {
                fill();
                continue;
            }
            const ConstBytes window = ConstBytes(window_).first(window_size_).subspan(position_ - window_start_);
            const size_t n = std::min(to.size(), window.size());
            std::ranges::copy(window.first(n), to.begin());
            to = to.subspan(n);
            position_ += n;
        }
    }

    void fill() {
        const auto wanted = static_cast<size_t>(std::min<uint64_t>(window_.size(), limit_ - position_));
        const auto got = platform::read_at(file_, MutableBytes(window_).first(wanted), position_);
        if (!got) {
            set_error(Errc::io, got.error().text);
        } else if (*got == 0) {
            set_error(Errc::invalid_argument, "its header is truncated");
        }
        window_start_ = position_;
        window_size_ = got.value_or(0);
    }

    Descriptor file_;
    uint64_t limit_;
    uint64_t position_ = 0;
    std::array<std::byte, 1 << 16> window_;
    uint64_t window_start_ = 0;
    size_t window_size_ = 0;
    std::optional<Error> error_;
};

void skip_value(Header & header, Type type) {
    if (type == Type::string) {
        header.skip_string();
        return;
    }
    if (type != Type::array) {
        const uint64_t size = size_of(type);
        size != 0 ? header.skip(size) : header.set_error(Errc::invalid_argument, "a value has an unknown type");
        return;
    }
    const auto element = static_cast<Type>(header.number<uint32_t>());
    const auto count = header.number<uint64_t>();
    if (element == Type::string) {
        for (uint64_t i = 0; i < count && header.ok(); ++i) {
            header.skip_string();
        }
    } else if (const uint64_t size = size_of(element); size != 0) {
        header.skip(count, size);
    } else {
        header.set_error(Errc::invalid_argument, "an array has an unknown element type");
    }
}

// Reads all key-value pairs, and returns the alignment of the tensors.
uint64_t read_values(Header & header, uint64_t count) {
    uint64_t alignment = default_alignment;
    for (uint64_t i = 0; i < count && header.ok(); ++i) {
        const bool is_alignment = header.string_is(alignment_key);
        const auto type = static_cast<Type>(header.number<uint32_t>());
        if (is_alignment && type == Type::u32) {
            alignment = header.number<uint32_t>();
        } else {
            skip_value(header, type);
        }
    }
    if (header.ok() && !std::has_single_bit(alignment)) {
        header.set_error(Errc::invalid_argument, formatted("its alignment, {}, is not a power of two", alignment));
    }
    return alignment;
}

// Reads the name, shape and type of a tensor, and returns its size in bytes. Does not read the offset that follows.
uint64_t read_shape(Header & header) {
    header.skip_string();  // its name
    const auto dims = header.number<uint32_t>();
    if (dims > GGML_MAX_DIMS) {
        header.set_error(Errc::invalid_argument, formatted("a tensor has {} dimensions, more than {}", dims, GGML_MAX_DIMS));
        return 0;
    }
    std::array<uint64_t, GGML_MAX_DIMS> ne;
    ne.fill(1);
    for (uint32_t i = 0; i < dims; ++i) {
        ne[i] = header.number<uint64_t>();
    }
    const auto type = header.number<uint32_t>();
    if (!header.ok()) {
        return 0;
    }
    const int64_t block = type < GGML_TYPE_COUNT ? ggml_blck_size(static_cast<ggml_type>(type)) : 0;
    const uint64_t block_bytes = type < GGML_TYPE_COUNT ? ggml_type_size(static_cast<ggml_type>(type)) : 0;
    if (block <= 0 || block_bytes == 0) {
        header.set_error(Errc::invalid_argument, formatted("tensor type {} is unknown", type));
        return 0;
    }
    uint64_t bytes = block_bytes;
    bool overflow = ne[0] % static_cast<uint64_t>(block) != 0 ||
                    __builtin_mul_overflow(bytes, ne[0] / static_cast<uint64_t>(block), &bytes);
    for (size_t i = 1; i < ne.size(); ++i) {
        overflow = __builtin_mul_overflow(bytes, ne[i], &bytes) || overflow;
    }
    if (overflow) {
        header.set_error(Errc::invalid_argument, "a tensor has an invalid shape");
    }
    return bytes;
}

}  // namespace

Result<std::vector<Extent>> find_tensors(Descriptor file, uint64_t file_size, uint64_t threshold) {
    Header header(file, file_size);
    if (header.number<uint32_t>() != magic) {
        header.set_error(Errc::invalid_argument, "it is not a GGUF file");
    }
    if (const auto version = header.number<uint32_t>(); version != 2 && version != 3) {
        header.set_error(Errc::invalid_argument, formatted("GGUF version {} is not supported", version));
    }
    const auto tensor_count = header.number<uint64_t>();
    const uint64_t alignment = read_values(header, header.number<uint64_t>());

    std::vector<Extent> large;  // offsets are relative to the data section until its position is known
    uint64_t end = 0;           // of the previous tensor
    for (uint64_t i = 0; i < tensor_count && header.ok(); ++i) {
        const uint64_t size = read_shape(header);
        const auto offset = header.number<uint64_t>();
        if (!header.ok()) {
            break;
        }
        // GGUF readers require tensors in ascending order, so the file size bounds the sum of their sizes.
        if (offset < end || __builtin_add_overflow(offset, size, &end)) {
            header.set_error(Errc::invalid_argument, "its tensors overlap or are out of order");
        } else if (end > file_size) {
            header.set_error(Errc::invalid_argument, "it is truncated");
        } else if (size > threshold) {
            large.push_back({offset, size});
        }
    }
    if (!header.ok()) {
        return header.error();
    }
    const uint64_t data = (header.position() + alignment - 1) / alignment * alignment;
    if (tensor_count > 0 && (data > file_size || end > file_size - data)) {
        return fail(Errc::invalid_argument, "it is truncated");
    }
    for (Extent & tensor : large) {
        tensor.offset += data;
    }
    return large;
}

}  // namespace caravan::cache
