// The build of a server program. The supervisor and its workers are two programs whose messages and options carry no version,
// so they must be of the same build.
#pragma once

#include <optional>
#include <string>

#include "base/error.h"

namespace caravan::server {

// The version, a hash of the sources of messages and options, and the build options that both programs must share.
std::string build_text();

// The first message on the control line of a worker is its build. It is text, so that programs of any two builds understand it.
bool send_build(int fd);
// Returns nullopt if no message is pending; Errc::closed if the other process has exited.
Result<std::optional<std::string>> receive_build(int fd);

}  // namespace caravan::server
