// What this machine brings to RDMA: devices and ports, kernel modules, limits, settings.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>
#include <utility>
#include <vector>

namespace caravan::doctor {

struct Gid {
    uint32_t index = 0;
    std::string type;       // "RoCEv2", "RoCEv1", "IB"
    std::string address;    // "10.0.0.2" if IPv4-mapped, else IPv6 notation
    std::string interface;  // the network interface behind it, "" if there is none
};

struct Port {
    std::string device;
    uint32_t port = 1;
    std::string state;       // "ACTIVE", "DOWN", ...: the kernel's word
    std::string link_layer;  // "Ethernet", "InfiniBand"
    std::string rate;        // "100 Gb/sec (4X EDR)": the kernel's words
    bool is_open = false;    // libibverbs can use it: only then the two below are known
    uint32_t mtu = 0;        // active, bytes
    std::vector<Gid> gids;

    bool is_active() const { return state == "ACTIVE"; }
};

struct Machine {
    std::string host, kernel;
    bool built_with_rdma = false;
    std::string why_no_verbs;  // of a build with RDMA: why libibverbs cannot be used, "" if it can
    std::vector<Port> ports;
    bool has_verbs = false;            // the kernel offers verbs to programs: ib_uverbs, as a module or built in
    std::vector<std::string> modules;  // those loaded that have to do with RDMA; built-in ones are not listed
    std::optional<uint64_t> memlock;   // bytes that may be locked; nothing: no limit
    bool may_lock_all = false;         // CAP_IPC_LOCK: the limit does not count
    std::string transport_mode;        // GGML_RPC_TRANSPORT
    std::vector<std::pair<std::string, std::string>> settings;  // GGML_RDMA_* and GGML_RPC_* that are set

    // By GGML_RPC_TRANSPORT=rdma or a GGML_RDMA_ variable. Without that, TCP alone is as it should be.
    bool asks_for_rdma() const;
};

// Locked memory that one session needs: its two rings.
inline constexpr uint64_t locked_by_session = 3 << 20;

Machine examine_machine();

// The part of it that the kernel tells in files: `root` is / or, in a test, a folder with sys/ and proc/.
std::vector<Port> ports_in(const std::filesystem::path & root);
std::vector<std::string> rdma_modules_in(const std::filesystem::path & root);
bool may_lock_all_in(const std::filesystem::path & root);

}  // namespace caravan::doctor
