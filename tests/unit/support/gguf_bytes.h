// Builds GGUF files field by field, valid or not.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace caravan::test {

class GgufBytes {
public:
    template <class T>
    GgufBytes & number(T value) {
        bytes_.append(reinterpret_cast<const char *>(&value), sizeof value);
        return *this;
    }
    GgufBytes & text(std::string_view value) {
        number<uint64_t>(value.size());
        bytes_ += value;
        return *this;
    }
    GgufBytes & start(uint64_t tensors, uint64_t values, uint32_t version = 3) {
        bytes_ += "GGUF";
        return number(version).number(tensors).number(values);
    }
    GgufBytes & tensor(std::string_view name, const std::vector<uint64_t> & ne, uint32_t type, uint64_t offset) {
        text(name).number(static_cast<uint32_t>(ne.size()));
        for (const uint64_t n : ne) {
            number(n);
        }
        return number(type).number(offset);
    }
    GgufBytes & pad(size_t alignment = 32) {
        bytes_.resize((bytes_.size() + alignment - 1) / alignment * alignment);
        return *this;
    }
    GgufBytes & raw(std::string_view data) {
        bytes_ += data;
        return *this;
    }

    const std::string & str() const { return bytes_; }

private:
    std::string bytes_;
};

// A model with one int8 tensor for each of `contents`.
inline std::string model_of(const std::vector<std::string> & contents) {
    constexpr uint32_t int8 = 24;
    GgufBytes file;
    file.start(contents.size(), 0);
    uint64_t offset = 0;
    for (size_t i = 0; i < contents.size(); ++i) {
        file.tensor("t" + std::to_string(i), {contents[i].size()}, int8, offset);
        offset = (offset + contents[i].size() + 31) / 32 * 32;
    }
    for (const std::string & content : contents) {
        file.pad().raw(content);
    }
    return file.str();
}

}  // namespace caravan::test
