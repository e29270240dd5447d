// Examines what RDMA needs of this machine: devices and ports, kernel modules, limits, settings.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

#include "base/config.h"

namespace caravan::doctor {

struct Gid {
    uint32_t index = 0;
    std::string type;       // "RoCEv2", "RoCEv1", "IB"
    std::string address;    // "10.0.0.2" if IPv4-mapped, else IPv6 notation
    std::string interface;  // its network interface; "" if there is none
};

struct Port {
    std::string device;
    uint32_t port = 1;
    std::string state;       // "ACTIVE", "DOWN", ..., as in sysfs
    std::string link_layer;  // "Ethernet", "InfiniBand"
    std::string rate;        // "100 Gb/sec (4X EDR)", as in sysfs
    bool is_open = false;    // libibverbs can open it; only then the two below are known
    uint32_t mtu = 0;        // active, bytes
    std::vector<Gid> gids;

    bool is_active() const { return state == "ACTIVE"; }
};

struct Machine {
    std::string host, kernel;
    bool built_with_rdma = false;
    std::string why_no_verbs;  // in a build with RDMA, why libibverbs cannot be used; "" if it can
    std::vector<Port> ports;
    bool has_verbs = false;            // ib_uverbs is there, as a module or built in
    std::vector<std::string> modules;  // loaded modules of RDMA; built-in ones are not listed
    std::optional<uint64_t> memlock;   // limit of locked bytes; empty: no limit
    bool may_lock_all = false;         // CAP_IPC_LOCK: the limit does not apply
    TransportMode transport_mode{};    // GGML_RPC_TRANSPORT
    std::vector<std::pair<std::string, std::string>> settings;  // GGML_RDMA_* and GGML_RPC_* that are set

    // True if GGML_RPC_TRANSPORT=rdma or a GGML_RDMA_ variable is set. Otherwise TCP without RDMA is not a fault.
    bool asks_for_rdma() const;
};

// Bytes of locked memory that one session needs: its two rings.
inline constexpr uint64_t locked_by_session = 3 << 20;

Machine examine_machine();

// The parts that the kernel reports in files. `root` is / or, in tests, a directory with sys/ and proc/.
std::vector<Port> ports_in(const std::filesystem::path & root);
std::vector<std::string> rdma_modules_in(const std::filesystem::path & root);
bool may_lock_all_in(const std::filesystem::path & root);

}  // namespace caravan::doctor
