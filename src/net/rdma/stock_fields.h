// The boundaries of the messages that are sent to a stock peer over RDMA. It reads the stream field by field (command, size,
// payload) and copies whole messages into the field that it reads, unchecked, so no message may reach beyond a field. Pure.
#pragma once

#include <array>
#include <cstdint>

#include "base/bytes.h"

namespace caravan::net::rdma {

class StockFields {
public:
    enum class Sender { client, server };  // a server's replies have no command
    explicit StockFields(Sender sender) : sender_(sender) { begin(); }

    // Bytes that are left of the present field; never 0.
    uint64_t left() const { return left_; }
    // `bytes`, at most left(), were sent.
    void advance(ConstBytes bytes);

private:
    enum class Field { command, size, payload };
    void begin();
    void enter(Field field, uint64_t size);

    const Sender sender_;
    Field field_{};
    uint64_t left_ = 0;
    std::array<std::byte, sizeof(uint64_t)> size_{};
};

}  // namespace caravan::net::rdma
