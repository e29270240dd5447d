// Settings from the environment. A value that cannot be used is reported once, and the default is used.
#pragma once

#include <cstdint>
#include <span>
#include <string_view>

#include "base/clock.h"

namespace caravan {

// An integer from the environment variable `name`, between `low` and `high`, else `fallback`. `default_text` names the
// default in the warning, where `fallback` is only a marker for it.
int64_t env_integer(const char * name, int64_t fallback, int64_t low, int64_t high, std::string_view default_text = {});

// The index of the variable's value among `words`, else `fallback`, which is an index too.
size_t env_choice(const char * name, std::span<const std::string_view> words, size_t fallback);

// 0 or 1; no, off and false, yes, on and true stand for them.
bool env_flag(const char * name, bool fallback);

// Reads all settings below, so that a wrong value is reported when the program starts, not when it is first used.
// `injects_faults`: this build heeds GGML_RPC_FAULT.
void check_environment(bool injects_faults);
// For child processes of one that has reported the same environment.
void silence_environment_warnings();

// GGML_RPC_TIMEOUT_S: how long a peer may be silent while an answer is awaited. Default 300 s: in the stock
// dialect a long computation looks just like a stopped peer, so a short limit would end healthy work.
seconds answer_timeout();

// GGML_RPC_CONNECT_TIMEOUT_S: connecting and the handshake together. Default 10 s.
seconds connect_timeout();

// GGML_RPC_RECONNECT_S: how long to try to go on with a session whose connection broke. Default 60 s; 0: not at all.
seconds reconnect_time();

// GGML_RPC_POLL_US: how long to watch the socket before sleeping on it. 0 sleeps at once.
microseconds poll_time();

// GGML_RPC_DIALECT: native (the default) or stock, for comparisons and for finding faults.
bool dialect_is_native();

// GGML_RPC_TRANSPORT.
enum class TransportWish {
    automatic,  // RDMA if both ends have it
    tcp,        // never RDMA
    rdma,       // a connection without RDMA is an error
};
TransportWish transport_wish();

// GGML_RPC_ON_LOSS: what the client does when a server is lost.
enum class OnLoss {
    fail,  // the devices of that server fail, the program lives: the default
    exit,  // the program ends with exit_code_unavailable
};
OnLoss on_loss();

// GGML_RPC_REQUIRE: a server that is named and cannot be reached ends the program with exit_code_unavailable.
bool servers_are_required();

// EX_TEMPFAIL of sysexits.h: start the program again later.
inline constexpr int exit_code_unavailable = 75;

}  // namespace caravan
