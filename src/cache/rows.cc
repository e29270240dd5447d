#include "cache/rows.h"

#include <algorithm>

namespace caravan::cache {

bool Rows::are_within(uint64_t end) const {
    if (size == 0 || count == 0 || (count > 1 && stride < size)) {
        return false;
    }
    uint64_t last = 0, stop = 0;
    return !__builtin_mul_overflow(count - 1, stride, &last) && !__builtin_add_overflow(last, size, &stop) &&
           stop <= end && offset <= end - stop;
}

size_t copy_packed(const Rows & rows, uint64_t begin, ConstBytes memory, MutableBytes to) {
    size_t done = 0;
    for (uint64_t column = begin % rows.size; done < to.size() && !memory.empty(); column = 0) {
        const auto part = static_cast<size_t>(std::min<uint64_t>({rows.size - column, memory.size(), to.size() - done}));
        std::memcpy(to.data() + done, memory.data(), part);
        done += part;
        memory = memory.subspan(std::min<uint64_t>(memory.size(), column + part == rows.size ? rows.stride - column : part));
    }
    return done;
}

}  // namespace caravan::cache
