#include "client/plugin/registry.h"

#include <cstdlib>
#include <ranges>
#include <string_view>

#include "base/config.h"
#include "base/log.h"
#include "client/plugin/serve.h"
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
    main_entry_.reg = {.api_version = abi::backend_api_version,
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
    const char * list = std::getenv("GGML_RPC_SERVERS");
    for (const auto part : std::views::split(std::string_view(list == nullptr ? "" : list), ',')) {
        const std::string endpoint(part.begin(), part.end());
        if (endpoint.empty()) {
            continue;
        }
        if (auto reached = reach(endpoint)) {
            main_entry_.devices.insert(main_entry_.devices.end(), reached->begin(), reached->end());
        } else {
            report_missing(formatted("GGML_RPC_SERVERS: {}", reached.error().text), reached.error().advice);
        }
    }
}

Result<std::vector<Device *>> Registry::reach(const std::string & text) {
    // Not when the plug-in is loaded: programs such as rpc-server load it without using it.
    [[maybe_unused]] static const bool is_checked = (check_environment(net::injects_faults), true);
    const auto endpoint = net::parse_endpoint(text);
    if (!endpoint) {
        return std::unexpected(endpoint.error());
    }
    if (const auto known = devices_by_endpoint_.find(endpoint->text()); known != devices_by_endpoint_.end()) {
        return fail(Errc::invalid_argument, "{} is listed twice", endpoint->text());
    }
    auto server = RemoteServer::reach(*endpoint);
    if (!server) {
        return std::unexpected(server.error());
    }
    if ((*server)->device_count() == 0) {
        return fail(Errc::not_found, "RPC server {}: no devices", endpoint->text());
    }
    std::vector<Device *> devices;
    for (uint32_t index = 0; index < (*server)->device_count(); ++index) {
        devices.push_back(&devices_.emplace_back(**server, index, formatted("RPC{}", devices_.size()), main_entry()));
    }
    warn_if_too_many();
    servers_.push_back(std::move(*server));
    devices_by_endpoint_[endpoint->text()] = devices;
    return devices;
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

ggml_backend_reg_t Registry::add_server(const char * text) {
    std::lock_guard lock(mutex_);
    const auto endpoint = net::parse_endpoint(text);
    if (!endpoint) {
        report_missing(endpoint.error().text, endpoint.error().advice);
        return nullptr;
    }
    std::unique_ptr<Entry> & entry = entries_[endpoint->text()];
    if (entry != nullptr) {
        return &entry->reg;
    }
    std::vector<Device *> devices;
    if (devices_by_endpoint_.contains(endpoint->text())) {
        log_info("RPC server {} is already in use through GGML_RPC_SERVERS", endpoint->text());
    } else {
        auto reached = reach(text);
        if (!reached) {
            report_missing(reached.error().text, reached.error().advice);
            entries_.erase(endpoint->text());
            return nullptr;
        }
        devices = std::move(*reached);
    }
    entry = std::make_unique<Entry>();
    entry->name = formatted("RPC[{}]", text);
    entry->devices = std::move(devices);
    entry->reg = main_entry_.reg;
    entry->reg.context = entry.get();
    return &entry->reg;
}

Device * Registry::find_device(const char * text, uint32_t index) {
    if (add_server(text) == nullptr) {
        return nullptr;
    }
    std::lock_guard lock(mutex_);
    const auto & devices = devices_by_endpoint_[net::parse_endpoint(text)->text()];
    return index < devices.size() ? devices[index] : nullptr;
}

}  // namespace caravan::client
