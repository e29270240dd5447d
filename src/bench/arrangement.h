// The arrangements in which a model runs: the plug-in, the transport and the servers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "bench/child.h"

namespace caravan::bench {

enum class Kind {
    caravan,       // Caravan's plug-in, with the transport of the environment
    one,           // the same with the first server only
    tensor,        // the same with all servers and -sm tensor
    tcp,           // Caravan's plug-in over TCP
    rdma,          // Caravan's plug-in over RDMA
    stock,         // ggml's own RPC plug-in
    stock_tensor,  // the same with -sm tensor
    local,         // no RPC
};

Result<Kind> parse_kind(std::string_view name);
std::string_view name_of(Kind kind);

// The names, separated by commas, except caravan.
std::string other_names();

inline bool is_split_by_tensors(Kind kind) { return kind == Kind::tensor || kind == Kind::stock_tensor; }
inline bool is_stock(Kind kind) { return kind == Kind::stock || kind == Kind::stock_tensor; }
inline bool is_ours(Kind kind) { return kind != Kind::local && !is_stock(kind); }

struct Arrangement {
    Kind kind = Kind::caravan;
    std::vector<std::string> endpoints;  // empty: no RPC

    std::string_view name() const { return name_of(kind); }
    std::string servers() const;  // as --rpc takes them
};

// The settings that all arrangements share.
struct Settings {
    std::string program;  // path of llama-bench
    std::string plugin;   // path of Caravan's
    std::string model;
    uint32_t prompt = 512, generate = 128;  // tokens; 0: not measured
    uint32_t repetitions = 3;               // within a run
    uint32_t threads = 0;                   // 0: llama-bench's default
    std::string device, local_device;       // llama-bench's -dev with RPC and without; "": all, and none
    std::vector<std::string> more;          // arguments for llama-bench
};

// The environment in which llama-bench runs in this arrangement.
Environment environment_of(const Arrangement & arrangement, const Settings & settings);

// The command line of llama-bench; [0] is its path.
std::vector<std::string> command_of(const Arrangement & arrangement, const Settings & settings);

}  // namespace caravan::bench
