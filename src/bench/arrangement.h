// The ways to run a model that are compared: who is the client, over what, with which servers.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "base/error.h"
#include "bench/child.h"

namespace caravan::bench {

enum class Kind {
    caravan,  // our plug-in, with the transport that the environment asks for
    tcp,      // our plug-in over TCP
    rdma,     // our plug-in over RDMA
    stock,    // ggml's own RPC plug-in
    local,    // no RPC
};

Result<Kind> parse_kind(std::string_view name);
std::string_view name_of(Kind kind);

inline bool is_ours(Kind kind) { return kind == Kind::caravan || kind == Kind::tcp || kind == Kind::rdma; }

struct Arrangement {
    Kind kind = Kind::caravan;
    std::vector<std::string> endpoints;  // none: no RPC

    std::string_view name() const { return name_of(kind); }
    std::string servers() const;  // as --rpc takes them
};

// What is the same for all arrangements.
struct Settings {
    std::string program;  // llama-bench
    std::string plugin;   // ours
    std::string model;
    uint32_t prompt = 512, generate = 128;  // tokens; 0: not measured
    uint32_t repetitions = 3;               // within a run
    uint32_t threads = 0;                   // 0: llama-bench decides
    std::string device, local_device;       // llama-bench's -dev with RPC and without; "": all, and none
    std::vector<std::string> more;          // arguments for llama-bench
};

// The environment that makes llama-bench that client.
Environment environment_of(const Arrangement & arrangement, const Settings & settings);

// llama-bench's command line.
std::vector<std::string> command_of(const Arrangement & arrangement, const Settings & settings);

}  // namespace caravan::bench
