// ggml_backend_rpc_start_server(), for programs that use the plug-in as a server (llama.cpp's ggml-rpc-server).
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace caravan::client {

// The path of the library that contains this code; "" if unknown.
std::string plugin_path();

// Replaces this process by Caravan's rpc-server, found beside the plug-in, in the folder that Caravan was installed to, or
// on PATH. Returns only on failure.
Error become_server(const std::string & endpoint, const char * cache_dir, size_t n_threads,
                    const std::vector<std::string> & devices);

}  // namespace caravan::client
