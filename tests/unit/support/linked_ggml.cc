// For tests that are linked with the plug-in's sources and with ggml, in place of client/plugin/host_ggml.cc.
#include "client/plugin/host_ggml.h"

namespace caravan::client {

Result<> bind_ggml(const void *) { return {}; }

}  // namespace caravan::client
