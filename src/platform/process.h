// This process.
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

// Replaces this process by `program`, a path, or a name that is searched in PATH. Returns only on failure; the error's text
// is the system's reason.
Error become(const std::string & program, const std::vector<std::string> & arguments);

// The file of this program; empty if it is unknown.
std::filesystem::path program_path();

// Opens an executable file, which path_of() then names even if another file has taken its place. The error's text is the
// system's reason.
Result<UniqueFd> open_program(const std::filesystem::path & path);
// A path of an open file, for this process and its child processes. Linux only.
std::string path_of(Descriptor file);

// The name that ps shows. Ignored where it is not supported.
void set_process_name(const char * name);

// "NAME=VALUE" for each environment variable. Not while another thread changes the environment.
std::vector<std::string> environment();

}  // namespace caravan::platform
