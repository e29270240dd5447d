// The environment variables that Caravan reads, and the only functions that read them. docs/environment.md is the reference for
// users; a test compares it with this table. base/config.h has the settings of most of them.
#pragma once

#include <array>
#include <cstdint>
#include <string_view>

namespace caravan {

struct Variable {
    const char * name;
    std::string_view value;     // its form and unit
    std::string_view fallback;  // without the variable; a number if `value` is one
    std::string_view reader;
    int64_t low = 0, high = 0;  // bounds of a number, inclusive
};

namespace variable {

inline constexpr int64_t hour = 3600, day = 24 * hour;  // seconds

// Programs that use servers, and rpc-server.
inline constexpr Variable servers{"GGML_RPC_SERVERS", "endpoints, separated by commas", "none", "client"};
inline constexpr Variable transport{"GGML_RPC_TRANSPORT", "auto, tcp or rdma", "auto", "net, doctor"};
inline constexpr Variable connect_timeout{"GGML_RPC_CONNECT_TIMEOUT_S", "seconds", "10", "client", 1, hour};
inline constexpr Variable timeout{"GGML_RPC_TIMEOUT_S", "seconds", "300", "client", 1, 7 * day};
inline constexpr Variable reconnect{"GGML_RPC_RECONNECT_S", "seconds", "60", "net", 0, day};
inline constexpr Variable require{"GGML_RPC_REQUIRE", "0 or 1", "0", "client"};
inline constexpr Variable on_loss{"GGML_RPC_ON_LOSS", "fail or exit", "fail", "client"};
inline constexpr Variable check_reduce{"GGML_RPC_CHECK_REDUCE", "0 or 1", "0", "client"};
inline constexpr Variable debug{"GGML_RPC_DEBUG", "0 or 1", "0", "base"};
inline constexpr Variable trace{"GGML_RPC_TRACE", "a file", "none", "client"};
inline constexpr Variable stats{"GGML_RPC_STATS", "a file", "none", "client"};
inline constexpr Variable poll{"GGML_RPC_POLL_US", "microseconds", "learnt, at most 300", "client, server", 0, 1'000'000};
inline constexpr Variable reduce{"GGML_RPC_REDUCE", "f32 or bf16", "f32", "client"};
inline constexpr Variable shared_memory{"GGML_RPC_SHM", "auto or off", "auto", "net"};
inline constexpr Variable dialect{"GGML_RPC_DIALECT", "native or stock", "native", "net"};
inline constexpr Variable rdma_device{"GGML_RDMA_DEV", "a device", "by address", "net"};
inline constexpr Variable rdma_gid{"GGML_RDMA_GID", "an index", "the GID of the connection's address", "net", 0, 65535};
inline constexpr Variable rdma_port{"GGML_RDMA_PORT", "a number", "any port", "net", 1, 255};
inline constexpr Variable rdma_pkey{"GGML_RDMA_PKEY", "an index", "0", "net", 0, 65535};
inline constexpr Variable rdma_service_level{"GGML_RDMA_SL", "a number", "0", "net", 0, 15};
inline constexpr Variable rdma_rails{"GGML_RDMA_RAILS", "a number", "one for each device", "net", 1, 4};
inline constexpr Variable rdma_traffic_class{"GGML_RDMA_TC", "a number", "0", "net", 0, 255};
// 4.096 us * 2^N until an unacknowledged packet is retransmitted: 0.54 s. (rxe interprets 7 retransmissions as unlimited.)
inline constexpr Variable rdma_timeout{"GGML_RDMA_TIMEOUT", "a number", "17", "net", 8, 22};
inline constexpr Variable rdma_retry{"GGML_RDMA_RETRY", "a number", "6", "net", 0, 6};
inline constexpr Variable fault{"GGML_RPC_FAULT", "faults, separated by commas", "none", "net"};

// rpc-bench.
inline constexpr Variable llama_bench{"LLAMA_BENCH", "a file", "the first on PATH", "bench"};

// Of the system and of other programs.
inline constexpr Variable backend_path{"GGML_BACKEND_PATH", "a file", "none", "client"};
inline constexpr Variable llama_cache{"LLAMA_CACHE", "a folder", "$XDG_CACHE_HOME/llama.cpp", "cache"};
inline constexpr Variable cache_home{"XDG_CACHE_HOME", "a folder", "$HOME/.cache", "cache, server"};
inline constexpr Variable home{"HOME", "a folder", "none", "cache, server"};
inline constexpr Variable path{"PATH", "folders, separated by colons", "none", "bench"};
inline constexpr Variable journal_stream{"JOURNAL_STREAM", "device:inode", "none", "platform"};
inline constexpr Variable cuda_cache{"CUDA_CACHE_PATH", "a folder", "$HOME/.nv", "server"};
inline constexpr Variable mesa_cache{"MESA_SHADER_CACHE_DIR", "a folder", "$XDG_CACHE_HOME/mesa_shader_cache", "server"};
inline constexpr Variable spin_count{"GOMP_SPINCOUNT", "iterations", "300", "server"};
inline constexpr Variable wait_policy{"OMP_WAIT_POLICY", "active or passive", "none", "server"};
// Set: OpenMP binds its threads to processors.
inline constexpr Variable bind{"OMP_PROC_BIND", "any", "none", "server"};
inline constexpr Variable places{"OMP_PLACES", "any", "none", "server"};
inline constexpr Variable gomp_affinity{"GOMP_CPU_AFFINITY", "any", "none", "server"};
inline constexpr Variable kmp_affinity{"KMP_AFFINITY", "any", "none", "server"};

inline constexpr std::array all{
    servers,     transport,    connect_timeout, timeout, reconnect, require,  on_loss,        debug,
    trace,       stats,        poll,            dialect, rdma_device, rdma_gid, rdma_port,    rdma_traffic_class,
    fault,       llama_bench,  backend_path,    llama_cache, cache_home, home, path,          journal_stream,
    rdma_timeout, rdma_retry,   rdma_pkey, rdma_service_level, rdma_rails, check_reduce, reduce,
    shared_memory,
    cuda_cache,  mesa_cache,   spin_count,      wait_policy, bind, places, gomp_affinity,     kmp_affinity,
};

}  // namespace variable

// The value; "" if the variable is unset. Valid until the environment changes, which must not happen meanwhile. Each call reads
// it anew, so tests may set variables; a reader that needs a constant value keeps the first.
std::string_view text_of(const Variable & variable);
std::string_view text_of_variable(const char * name);
bool is_set(const Variable & variable);  // perhaps to ""

}  // namespace caravan
