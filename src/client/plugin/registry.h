// The plug-in's servers, and the "RPC" entry in ggml's registry.
//
// One object per process: ggml requests it at every load and expects the same pointers. Threads: any.
#pragma once

#include <deque>
#include <map>
#include <memory>
#include <mutex>
#include <string>
#include <vector>

#include "abi/ggml_abi.h"
#include "client/plugin/device.h"

namespace caravan::client {

class Registry {
public:
    static Registry & instance();

    // The entry named "RPC". Its own devices are those of GGML_RPC_SERVERS.
    ggml_backend_reg_t main_entry() { return &main_entry_.reg; }

    // The entry of one endpoint ("RPC[host:port]") with its devices. Returns the same entry if it was added before, and an
    // entry without devices if GGML_RPC_SERVERS contains the endpoint. Null if the endpoint is malformed or unreachable,
    // which is logged.
    ggml_backend_reg_t add_server(const char * endpoint);

    // A device of an endpoint, for the functions of ggml-rpc.h. Adds the server if needed. Null if there is none.
    Device * find_device(const char * endpoint, uint32_t index);

    // A server that was added, with its devices. Lives as long as the process.
    struct Server {
        std::unique_ptr<RemoteServer> remote;
        std::vector<Device *> devices;
        ggml_backend_reg_t reg = nullptr;  // null: it has no entry, because only GGML_RPC_SERVERS has its endpoint
    };
    // The same as add_server(), for callers that report failures themselves. The time-outs apply if the server is new.
    Result<Server *> try_to_add(const std::string & endpoint, const ConnectionOptions & timeouts = {});
    // A server that was added before, also through GGML_RPC_SERVERS. Errc::not_found if there is none.
    Result<Server *> find_server(const std::string & endpoint);
    // The server's entry, or the main one if it has none.
    ggml_backend_reg_t entry_of(const Server & server);

private:
    struct Entry {
        std::string name;
        std::vector<Device *> devices;
        ggml_backend_reg reg{};
    };

    Registry();
    Result<Server *> reach(const net::Endpoint & endpoint, const ConnectionOptions & timeouts = {});
    ggml_backend_reg_t add_entry(std::string name, std::vector<Device *> devices);
    void warn_if_too_many();

    std::mutex mutex_;
    Entry main_entry_;
    std::deque<Entry> entries_;
    std::map<std::string, Server> servers_;  // by endpoint text
    std::deque<Device> devices_;
    bool has_warned_ = false;
};

}  // namespace caravan::client
