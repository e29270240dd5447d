// Errors as values. No exception crosses the boundary of a module.
#pragma once

#include <cstdint>
#include <expected>
#include <string>
#include <utility>

#include "base/formatted.h"

namespace caravan {

enum class Errc {
    invalid_argument,  // invalid input from the caller or the user
    not_found,         // a name, file, device or handle does not exist
    unavailable,       // temporarily unavailable: refused, unreachable, in use
    timed_out,         // no progress before the deadline
    closed,            // the peer closed the connection
    reset,             // the connection was reset
    io,                // the operating system reported an error
    protocol,          // the peer violated the protocol
    no_memory,         // an allocation failed
    unsupported,       // a valid request that this build or device cannot serve
};

// The cause of a failure, for causes on which a caller acts: advice depends on the reason, never on the text.
enum class Reason : uint8_t {
    unspecified,
    no_rdma_library,     // libibverbs is missing or cannot be loaded
    no_rdma_device,      // the machine has none
    rdma_device_closed,  // this process may not open it
    rdma_port_inactive,  // its link is down
    no_rdma_gid,         // no GID equals the connection's address
    rdma_setting,        // a GGML_RDMA_ variable names what does not exist
    memlock_limit,       // the limit of locked memory is too low
    no_rdma_path,        // messages over RDMA do not arrive
};

// `text` states what failed, on what, why, and what the user can do about it. One line, no full stop. `advice` is advice
// to the user that the caller prints separately; may be empty.
struct Error {
    Errc code;
    std::string text;
    std::string advice = {};
    Reason reason = Reason::unspecified;
};

template <class T = void>
using Result = std::expected<T, Error>;

template <class... Args>
std::unexpected<Error> fail(Errc code, std::format_string<Args...> format, Args &&... args) {
    return std::unexpected(Error{code, formatted(format, std::forward<Args>(args)...)});
}

template <class... Args>
std::unexpected<Error> fail(Errc code, Reason reason, std::format_string<Args...> format, Args &&... args) {
    return std::unexpected(Error{code, formatted(format, std::forward<Args>(args)...), {}, reason});
}

// Describes an errno value. Thread-safe.
std::string errno_text(int value);

}  // namespace caravan
