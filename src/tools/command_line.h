// The form of the command lines of rpc-server, rpc-doctor and rpc-bench.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace caravan::tools {

// Sets the form of --help, --version and errors of the command line. `usage` follows the program's name; `footer` is printed
// unchanged.
//
// The line of an option has the name of its value (type_name() or option_text()), its description, the range of whole_number(),
// and its default in brackets.
void set_up(CLI::App & app, const std::string & usage, const std::string & version, const char * footer);

// Accepts a whole number from `low` to `high`. `example`, such as "-p 50052", is part of the error.
CLI::Validator whole_number(int64_t low, int64_t high, const std::string & example);

// Accepts one of `words`.
CLI::Validator one_of(const std::vector<std::string> & words);

// Converts a size ("500M", "1.5G", "50GiB") to a number of bytes. Refuses less than `least` bytes; accepts 0 if `zero` states
// its meaning ("no limit").
CLI::Validator as_size(uint64_t least, const std::string & zero = "");

}  // namespace caravan::tools
