// What can go wrong, as a value. No exception crosses a room's door.
#pragma once

#include <expected>
#include <string>
#include <utility>

#include "base/formatted.h"

namespace caravan {

enum class Errc {
    invalid_argument,  // the caller's or the user's input is wrong
    not_found,         // a name, file, device or handle that does not exist
    unavailable,       // cannot be had now: refused, unreachable, in use
    timed_out,         // no progress within the time allowed
    closed,            // the peer ended the connection in an orderly way
    reset,             // the connection was cut off
    io,                // the operating system reported an error
    protocol,          // the peer sent something that the protocol does not allow
    no_memory,         // an allocation failed
    unsupported,       // understood, but not possible here
};

// `text` says what failed, on what, and (where it helps) what the user can do. One line, no full stop. `advice` is what
// the user can do where the caller prints that apart; else "".
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

// The text of an errno value. Thread-safe.
std::string errno_text(int value);

}  // namespace caravan
