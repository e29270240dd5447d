// Settings from environment variables. An invalid value is logged once, and the default is used. Thread-safe, except that
// the environment must not change meanwhile.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

#include "base/clock.h"
#include "base/environment.h"

namespace caravan {

// The integer in the environment variable `name`, from `low` to `high` inclusive; `fallback` if it is unset or invalid. The
// warning names the default as `default_text`, or as the number `fallback` if that is empty.
int64_t env_integer(const char * name, int64_t fallback, int64_t low, int64_t high, std::string_view default_text = {});

// The same, with the bounds and the default of the table. The default is -1 if the table's is not a number.
int64_t env_integer(const Variable & variable);

// The index in `words` of the variable's value; `fallback`, also an index, if it is unset or not among them.
size_t env_choice(const char * name, std::span<const std::string_view> words, size_t fallback);

// 1, yes, on and true are true; 0, no, off and false are false; `fallback` if the variable is unset or invalid.
bool env_flag(const char * name, bool fallback);

// Reads all settings below, so that invalid values are logged at start-up rather than at first use. `injects_faults`: this
// build supports GGML_RPC_FAULT.
void check_environment(bool injects_faults);
// Suppresses these warnings, in child processes of one that has already logged them.
void silence_environment_warnings();

// GGML_RPC_TIMEOUT_S: time-out for a reply from a silent peer. Default 300 s: in the stock dialect a long computation is
// indistinguishable from a stopped peer.
seconds reply_timeout();

// GGML_RPC_CONNECT_TIMEOUT_S: time-out for connecting and the handshake together. Default 10 s.
seconds connect_timeout();

// GGML_RPC_RECONNECT_S: time-out for resuming a session whose connection broke. Default 60 s; 0 disables resuming.
seconds reconnect_time();

// GGML_RPC_POLL_US: time to poll a socket before sleeping on it; 0 sleeps at once. Null, the default: it is learnt
// (net/polling.h).
std::optional<microseconds> poll_time();

// GGML_RPC_DIALECT: native (the default) or stock, for comparisons and debugging.
bool dialect_is_native();

// GGML_RPC_REDUCE: with -sm tensor, servers exchange rounded values (bf16) for prompts. Default f32: not rounded.
bool prompts_are_rounded();

// GGML_RPC_SHM: whether the sessions of servers of one machine exchange reductions through shared memory. Default: yes.
bool shares_memory();

// GGML_RPC_TRANSPORT.
enum class TransportMode {
    automatic,  // RDMA if both peers have it; the default
    tcp,        // no RDMA
    rdma,       // fail if RDMA cannot be used
};
TransportMode transport_mode();
std::string_view text_of(TransportMode mode);  // as in the variable

// GGML_RPC_ON_LOSS: the reaction of the client to the loss of a server.
enum class OnLoss {
    fail,  // computations on the server's devices fail; the program continues; the default
    exit,  // the program exits with exit_code_unavailable
};
OnLoss on_loss();

// GGML_RPC_REQUIRE: if true, the program exits with exit_code_unavailable if a configured server cannot be reached.
bool servers_are_required();

// GGML_RPC_CHECK_REDUCE: compare each sum of -sm tensor between the servers. For finding faults.
bool reductions_are_checked();

// EX_TEMPFAIL of sysexits.h: a service manager may restart the program.
inline constexpr int exit_code_unavailable = 75;

}  // namespace caravan
