// The bytes of one upload in the program's memory: a weight, or the rows of it that one server gets.
#pragma once

#include <vector>

#include "base/bytes.h"
#include "cache/rows.h"

namespace caravan::client {

struct WeightRows {
    const std::byte * first;
    cache::Rows rows;  // in memory, from `first` on; at least one byte

    WeightRows(ConstBytes data) : first(data.data()), rows(cache::Rows::contiguous(0, data.size())) {}
    // Rows without gaps become one.
    WeightRows(const std::byte * data, uint64_t size, uint64_t count, uint64_t stride)
        : first(data), rows(count == 1 || stride == size ? cache::Rows::contiguous(0, size * count)
                                                         : cache::Rows{0, size, count, stride}) {}

    bool is_contiguous() const { return rows.is_contiguous(); }
    uint64_t size() const { return rows.bytes(); }
    ConstBytes with_gaps() const { return {first, rows.span()}; }
    std::vector<std::byte> packed() const;

    // Calls `use` with the packed bytes in pieces, which are valid until it returns.
    template <class Use>
    void for_each_piece(Use use) const {
        if (is_contiguous()) {
            use(with_gaps());
            return;
        }
        std::vector<std::byte> piece;
        for (uint64_t done = 0; done < size(); done += piece.size()) {
            copy_piece(done, piece);
            use(ConstBytes(piece));
        }
    }

private:
    void copy_piece(uint64_t begin, std::vector<std::byte> & piece) const;
};

}  // namespace caravan::client
