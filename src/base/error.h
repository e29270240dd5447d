// Errors as values. No exception crosses the boundary of a module.
#pragma once

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

// `text` states what failed, on what, why, and what the user can do about it. One line, no full stop. `advice` is advice
// to the user that the caller prints separately; may be empty.
struct Error {
    Errc code;
    std::string text;
    std::string advice = {};
};

template <class T = void>
using Result = std::expected<T, Error>;

template <class... Args>
std::unexpected<Error> fail(Errc code, std::format_string<Args...> format, Args &&... args) {
    return std::unexpected(Error{code, formatted(format, std::forward<Args>(args)...)});
}

// Describes an errno value. Thread-safe.
std::string errno_text(int value);

}  // namespace caravan
