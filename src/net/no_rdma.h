// Why a connection does not use RDMA.
#pragma once

#include <string>
#include <string_view>
#include <utility>

#include "base/error.h"

namespace caravan::net {

struct NoRdma {
    std::string text;  // for the log; empty if the connection uses RDMA, or RDMA was not requested
    Reason reason = Reason::unspecified;
    bool is_at_server = false;  // the server's reason

    NoRdma() = default;
    explicit NoRdma(std::string why) : text(std::move(why)) {}
    explicit NoRdma(const Error & error) : text(error.text), reason(error.reason) {}
    bool empty() const { return text.empty(); }
};

// The reason that a server's text states. The message that carries the text (wire::RdmaReply) has no code, so this function
// knows the words that all versions of Caravan use. Pure.
Reason reason_in(std::string_view text);

}  // namespace caravan::net
