// What the command lines of rpc-server, rpc-doctor and rpc-bench have in common.
#pragma once

#include <CLI/CLI.hpp>
#include <cstdint>
#include <string>
#include <vector>

namespace caravan::tools {

// The form of --help, of --version and of what is printed about a wrong command line. `usage` follows the program's name;
// `footer` is printed as it is.
//
// An option's line has its value's name (type_name() or option_text()), its description, the range that whole_number() allows,
// and its default in brackets.
void set_up(CLI::App & app, const std::string & usage, const std::string & version, const char * footer);

// A check for options that take a whole number. `example`: what a user might write, such as "-p 50052".
CLI::Validator whole_number(int64_t low, int64_t high, const std::string & example);

// A check for options that take one of these words.
CLI::Validator one_of(const std::vector<std::string> & words);

// A transform for options that take a size: "500M", "1.5G" or "50GiB" become a number of bytes. It refuses what is below
// `least` bytes, but for 0 where `zero` says what that means ("no limit").
CLI::Validator as_size(uint64_t least, const std::string & zero = "");

}  // namespace caravan::tools
