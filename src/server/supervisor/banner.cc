#include "server/supervisor/banner.h"

#include <algorithm>
#include <thread>

#include "base/config.h"
#include "base/counted.h"
#include "base/size_text.h"
#include "net/hello.h"
#include "wire/stock_comm.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/device.h"
#endif

namespace caravan::server {
namespace {

bool is_cpu(const ControlMessage & device) { return device.is_cpu != 0; }

size_t count_cpus(const WorkerPool & workers) {
    return static_cast<size_t>(std::ranges::count_if(workers.devices(), is_cpu));
}

std::string cache_text(const cache::WeightOptions & weights, const WorkerPool & workers) {
    if (!weights.keep) {
        return "off (-c switches it on)";
    }
    constexpr std::string_view prefix = "weight cache: ";
    std::string_view problem = workers.reports().cache_problem();
    problem.remove_prefix(problem.starts_with(prefix) ? prefix.size() : 0);
    if (!problem.empty()) {
        return workers.reports().cache_is_readable()
                   ? formatted("{} (only read, nothing is kept: {})", weights.directory.string(), problem)
                   : formatted("off: {}", problem);
    }
    return formatted("{} ({})", weights.directory.string(),
                     weights.max_bytes == 0 ? "no limit" : "at most " + size_text(weights.max_bytes));
}

std::string device_text(const ControlMessage & device, size_t cpus) {
    return formatted("{} ({}, {} free{}{})", device.text, size_text(device.memory_total), size_text(device.memory_free),
                     device.has_unified_memory != 0 ? "; unified memory" : "",
                     is_cpu(device) && cpus > 1 ? formatted("; the {} CPU devices share it", cpus) : "");
}

// Why no session will use RDMA; empty if one may.
std::string rdma_obstacle() {
    if (!net::why_no_rdma().empty()) {
        return net::why_no_rdma();
    }
#ifdef GGML_RPC_RDMA
    return net::rdma::why_none_is_active(net::rdma::scan_ports());
#else
    return "";
#endif
}

std::string transport_text(bool is_tcp) {
    if (!is_tcp) {
        return "Unix socket";
    }
    if (!net::built_with_rdma || transport_mode() == TransportMode::tcp) {
        return "TCP";
    }
    const std::string obstacle = rdma_obstacle();
    if (transport_mode() == TransportMode::rdma) {
        return obstacle.empty() ? "RDMA only (GGML_RPC_TRANSPORT=rdma)"
                                : formatted("none: GGML_RPC_TRANSPORT=rdma, but {}", obstacle);
    }
    return obstacle.empty() ? "TCP, RDMA with clients that can" : formatted("TCP (no RDMA: {})", obstacle);
}

}  // namespace

bool lends_cpu(const WorkerPool & workers) { return count_cpus(workers) > 0; }

std::string banner(const ServerOptions & options, std::span<const net::Listener> listeners, const WorkerPool & workers) {
    const WorkerOptions & worker = options.worker;
    std::string text = formatted("Starting RPC server v{}.{}.{} (Caravan {})\n", wire::stock_major, wire::stock_minor,
                                 wire::stock_patch, CARAVAN_VERSION);
    const auto line = [&](std::string_view name, std::string_view value) { text += formatted("  {:<15}: {}\n", name, value); };
    for (const net::Listener & listener : listeners) {
        line("endpoint", listener.endpoint.text());
    }
    line("local cache", cache_text(worker.weights, workers));
    for (const auto & dir : worker.weights.model_dirs) {
        line("model files", dir.string());
    }
    const size_t cpus = count_cpus(workers);
    text += "Devices:\n";
    for (const ControlMessage & device : workers.devices()) {
        text += formatted("  {}\n", device_text(device, cpus));
    }
    line("transport", transport_text(listeners.front().endpoint.kind == net::Endpoint::Kind::tcp));
    if (options.stock_comm) {
        line("stock comm", formatted("port {}, not authenticated (--stock-comm)",
                                     listeners.front().endpoint.port + wire::comm_port_offset));
    }
    if (!worker.keep_spare) {
        line("spare worker", "none (--no-spare)");
    }
    line("confinement", workers.reports().confinement());
    if (cpus > 0) {
        const unsigned cores = std::thread::hardware_concurrency();
        line("threads", formatted("{} for each session{}{}", worker.threads, cpus > 1 ? " and CPU device" : "",
                                  cores == 0 ? "" : ", on " + counted(cores, "core")));
    }
    line("sessions", formatted("at most {} at once, {} of one address{}", options.max_sessions, options.max_per_address,
                               worker.max_memory == WorkerOptions::no_limit
                                   ? ""
                                   : ", with at most " + size_text(worker.max_memory) + " of memory each"));
    return text;
}

}  // namespace caravan::server
