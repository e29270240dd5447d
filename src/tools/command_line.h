// What the command lines of rpc-server, rpc-doctor and rpc-bench have in common.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>

namespace caravan::tools {

// The form of --help, and --version. `usage` follows the program's name; `footer` is printed as it is.
//
// An option's line has its value's name (type_name() or option_text()), its description, the range that CLI::Range allows,
// and its default in brackets.
void set_up(CLI::App & app, const std::string & usage, const std::string & version, const char * footer);

// A transform for options that take a size: "500M", "1.5G" or "50GiB" become a number of bytes.
CLI::Validator as_size();

}  // namespace caravan::tools
