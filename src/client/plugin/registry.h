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

private:
    struct Entry {
        std::string name;
        std::vector<Device *> devices;
        ggml_backend_reg reg{};
    };

    Registry();
    Result<std::vector<Device *>> reach(const std::string & endpoint);
    void warn_if_too_many();

    std::mutex mutex_;
    Entry main_entry_;
    std::map<std::string, std::unique_ptr<Entry>> entries_;         // by endpoint text
    std::map<std::string, std::vector<Device *>> devices_by_endpoint_;
    std::vector<std::unique_ptr<RemoteServer>> servers_;
    std::deque<Device> devices_;
    bool has_warned_ = false;
};

}  // namespace caravan::client
