#include "client/plugin/serve.h"

#include <cstdlib>
#include <filesystem>

#include "base/formatted.h"
#include "net/endpoint.h"
#include "platform/library.h"
#include "platform/process.h"

namespace caravan::client {
namespace {

std::vector<std::string> candidates() {
    const std::filesystem::path folder = std::filesystem::path(plugin_path()).parent_path();
    std::vector<std::string> out{(folder / "rpc-server").string()};
    // In the prefix that both were installed to (cmake --install --prefix).
    const std::string subfolder = "/" CARAVAN_BACKEND_DIR_BELOW_PREFIX;
    if (const std::string name = folder.string(); name.ends_with(subfolder)) {
        out.push_back(name.substr(0, name.size() - subfolder.size()) + "/bin/rpc-server");
    }
    out.insert(out.end(), {CARAVAN_INSTALLED_SERVER, "rpc-server"});  // without a slash: searched in PATH
    return out;
}

}  // namespace

std::string plugin_path() {
    return platform::library_of(reinterpret_cast<const void *>(&plugin_path));
}

Error become_server(const std::string & text, const char * cache_dir, size_t n_threads,
                    const std::vector<std::string> & devices) {
    const auto endpoint = net::parse_endpoint(text);
    if (!endpoint) {
        return endpoint.error();
    }
    const bool is_unix = endpoint->kind == net::Endpoint::Kind::unix_socket;
    std::vector<std::string> arguments{"rpc-server", "--host", is_unix ? endpoint->text() : endpoint->host, "--threads",
                                       std::to_string(n_threads)};
    if (!is_unix) {
        arguments.insert(arguments.end(), {"--port", std::to_string(endpoint->port)});
    }
    for (const std::string & device : devices) {
        arguments.insert(arguments.end(), {"--device", device});
    }
    if (cache_dir != nullptr) {
        arguments.insert(arguments.end(), {"--cache", "--cache-dir", cache_dir});
    }
    Error last{Errc::not_found, ""};
    for (const std::string & program : candidates()) {
        last = platform::become(program, arguments);
    }
    return Error{Errc::not_found, formatted("cannot start rpc-server: {} (looked beside the plug-in, in {} and on PATH)",
                                            last.text, CARAVAN_INSTALLED_SERVER)};
}

}  // namespace caravan::client
