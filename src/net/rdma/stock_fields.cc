#include "net/rdma/stock_fields.h"

#include <algorithm>

namespace caravan::net::rdma {

void StockFields::begin() {
    if (sender_ == Sender::client) {
        enter(Field::command, 1);
    } else {
        enter(Field::size, sizeof size_);
    }
}

void StockFields::enter(Field field, uint64_t size) {
    field_ = field;
    left_ = size;
}

void StockFields::advance(ConstBytes bytes) {
    if (field_ == Field::size) {
        std::ranges::copy(bytes, MutableBytes(size_).last(left_).begin());
    }
    left_ -= bytes.size();
    if (left_ > 0) {
        return;
    }
    const uint64_t size = load<uint64_t>(size_.data());
    if (field_ == Field::command) {
        enter(Field::size, sizeof size_);
    } else if (field_ == Field::size && size > 0) {
        enter(Field::payload, size);
    } else {
        begin();
    }
}

}  // namespace caravan::net::rdma
