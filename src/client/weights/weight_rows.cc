#include "client/weights/weight_rows.h"

#include <algorithm>

#include "cache/digest.h"

namespace caravan::client {

std::vector<std::byte> WeightRows::packed() const {
    std::vector<std::byte> out(size());
    cache::copy_packed(rows, 0, with_gaps(), out);
    return out;
}

void WeightRows::copy_piece(uint64_t begin, std::vector<std::byte> & piece) const {
    piece.resize(std::min<uint64_t>(cache::chunk_size, size() - begin));
    cache::copy_packed(rows, begin, with_gaps().subspan(rows.position(begin)), piece);
}

}  // namespace caravan::client
