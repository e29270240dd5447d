#include "client/plugin/registry.h"

#include <cstdlib>
#include <ranges>
#include <string_view>

#include "base/config.h"
#include "base/log.h"
#include "client/plugin/api.h"
#include "client/plugin/serve.h"
#include "client/plugin/all_reduce.h"
#include "client/session/end_program.h"
#include "ggml-rpc.h"
#include "net/faults.h"

namespace caravan::client {
namespace {

constexpr size_t max_devices_in_use = 15;  // GGML_SCHED_MAX_BACKENDS - 1

void * get_proc_address(ggml_backend_reg_t, const char * name) {
    const std::string_view wanted = name;
    if (wanted == "ggml_backend_rpc_add_server") {
        return reinterpret_cast<void *>(&ggml_backend_rpc_add_server);
    }
    if (wanted == "ggml_backend_rpc_start_server") {
        return reinterpret_cast<void *>(&ggml_backend_rpc_start_server);
    }
    if (wanted == CARAVAN_API_V1) {
        return const_cast<caravan_api_v1 *>(&api_v1());
    }
    if (abi::host_api_version() != abi::backend_api_version) {
        return nullptr;  // how an older ggml calls the functions below is not known, and it can do without
    }
    if (wanted == "ggml_backend_comm_init") {
        return reinterpret_cast<void *>(&comm_init);
    }
    if (wanted == "ggml_backend_comm_free") {
        return reinterpret_cast<void *>(&comm_free);
    }
    if (wanted == "ggml_backend_comm_allreduce_tensor") {
        return reinterpret_cast<void *>(&comm_allreduce_tensor);
    }
    return nullptr;
}

// A server that the user named is not available. ggml's programs continue without it and exit with code 0, so only these
// lines explain why the model is slow or does not fit.
void report_missing(const std::string & reason, const std::string & advice) {
    const std::string remedy =
        advice.empty() ? "start the server, or correct the endpoint: HOST:PORT, [IPV6]:PORT or unix:PATH" : advice;
    if (servers_are_required()) {
        end_program(formatted("{}, and GGML_RPC_REQUIRE=1 is set: {}", reason, remedy));
    }
    const std::string frame(100, '*');
    log_error("{}", frame);
    log_error("{}", reason);
    log_error("The program continues WITHOUT the devices of this server: the model may run on the local CPU.");
    log_error("What to do: {}.", remedy);
    log_error("Set GGML_RPC_REQUIRE=1 to end the program instead.");
    log_error("{}", frame);
}

}  // namespace

Registry & Registry::instance() {
    // Never destroyed: ggml may use devices until the process exits.
    static Registry & only = *new Registry();
    return only;
}

Registry::Registry() {
    main_entry_.name = "RPC";
    main_entry_.reg = {.api_version = abi::host_api_version(),
                       .calls = {.get_name = [](ggml_backend_reg_t reg) {
                                     return static_cast<Entry *>(reg->context)->name.c_str();
                                 },
                                 .get_device_count = [](ggml_backend_reg_t reg) {
                                     return static_cast<Entry *>(reg->context)->devices.size();
                                 },
                                 .get_device = [](ggml_backend_reg_t reg, size_t index) {
                                     return static_cast<Entry *>(reg->context)->devices.at(index)->ggml_device();
                                 },
                                 .get_proc_address = get_proc_address},
                       .context = &main_entry_};
    for (const auto part : std::views::split(text_of(variable::servers), ',')) {
        const std::string endpoint(part.begin(), part.end());
        if (endpoint.find_first_not_of(' ') == endpoint.npos) {
            continue;
        }
        const auto reached =
            net::parse_endpoint(endpoint).and_then([&](const net::Endpoint & parsed) { return reach(parsed); });
        if (reached) {
            const auto & devices = (*reached)->devices;
            main_entry_.devices.insert(main_entry_.devices.end(), devices.begin(), devices.end());
        } else {
            report_missing(formatted("GGML_RPC_SERVERS: {}", reached.error().text), reached.error().advice);
        }
    }
}

Result<Registry::Server *> Registry::reach(const net::Endpoint & endpoint, const ConnectionOptions & timeouts) {
    // Not when the plug-in is loaded: programs such as rpc-server load it without using it.
    [[maybe_unused]] static const bool is_checked = (check_environment(net::injects_faults), true);
    if (servers_.contains(endpoint.text())) {
        return fail(Errc::invalid_argument, "{} is listed twice", endpoint.text());
    }
    auto remote = RemoteServer::reach(endpoint, timeouts);
    if (!remote) {
        return std::unexpected(remote.error());
    }
    if ((*remote)->device_count() == 0) {
        return fail(Errc::not_found, "RPC server {}: no devices", endpoint.text());
    }
    Server & server = servers_[endpoint.text()];
    server.remote = std::move(*remote);
    for (uint32_t index = 0; index < server.remote->device_count(); ++index) {
        server.devices.push_back(
            &devices_.emplace_back(*server.remote, index, formatted("RPC{}", devices_.size()), main_entry()));
    }
    warn_if_too_many();
    return &server;
}

// ggml's scheduler accepts 16 back-ends including the CPU, and aborts the program if there are more. With -sm tensor many
// devices form one back-end, so the server is not refused.
void Registry::warn_if_too_many() {
    size_t count = devices_.size();
    for (size_t i = 0; i < ggml_backend_dev_count(); ++i) {
        const ggml_backend_dev_t device = ggml_backend_dev_get(i);
        const bool is_other = ggml_backend_dev_backend_reg(device) != main_entry();
        count += is_other && ggml_backend_dev_type(device) != GGML_BACKEND_DEVICE_TYPE_CPU ? 1 : 0;
    }
    if (count > max_devices_in_use && !has_warned_) {
        has_warned_ = true;
        log_warning("more than {} devices are registered. ggml's scheduler accepts {} beside the CPU and aborts the program "
                    "if it uses more, unless tensors are split over them (-sm tensor): select devices with -dev, for "
                    "example -dev RPC0,RPC1",
                    max_devices_in_use, max_devices_in_use);
    }
}

ggml_backend_reg_t Registry::add_entry(std::string name, std::vector<Device *> devices) {
    Entry & entry = entries_.emplace_back(Entry{std::move(name), std::move(devices), main_entry_.reg});
    entry.reg.context = &entry;
    return &entry.reg;
}

Result<Registry::Server *> Registry::try_to_add(const std::string & text, const ConnectionOptions & timeouts) {
    const std::lock_guard lock(mutex_);
    const auto endpoint = net::parse_endpoint(text);
    if (!endpoint) {
        return std::unexpected(endpoint.error());
    }
    const auto known = servers_.find(endpoint->text());
    if (known != servers_.end() && known->second.reg != nullptr) {
        return &known->second;
    }
    if (known != servers_.end()) {
        log_info("RPC server {} is already in use through GGML_RPC_SERVERS", endpoint->text());
        known->second.reg = add_entry(formatted("RPC[{}]", text), {});
        return &known->second;
    }
    auto server = reach(*endpoint, timeouts);
    if (server) {
        (*server)->reg = add_entry(formatted("RPC[{}]", text), (*server)->devices);
    }
    return server;
}

ggml_backend_reg_t Registry::add_server(const char * text) {
    const auto server = try_to_add(text);
    if (!server) {
        report_missing(server.error().text, server.error().advice);
        return nullptr;
    }
    return (*server)->reg;
}

Result<Registry::Server *> Registry::find_server(const std::string & text) {
    const auto endpoint = net::parse_endpoint(text);
    if (!endpoint) {
        return std::unexpected(endpoint.error());
    }
    const std::lock_guard lock(mutex_);
    const auto known = servers_.find(endpoint->text());
    if (known == servers_.end()) {
        return fail(Errc::not_found, "RPC server {}: it was not added", endpoint->text());
    }
    return &known->second;
}

ggml_backend_reg_t Registry::entry_of(const Server & server) {
    const std::lock_guard lock(mutex_);
    return server.reg == nullptr ? main_entry() : server.reg;
}

Device * Registry::find_device(const char * text, uint32_t index) {
    if (add_server(text) == nullptr) {
        return nullptr;
    }
    const auto & devices = (*find_server(text))->devices;
    return index < devices.size() ? devices[index] : nullptr;
}

}  // namespace caravan::client
