// A model's file and this machine's memory.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace caravan::bench {

// The files of a model: itself, or all parts of a split one (NAME-00001-of-00003.gguf) in the order of their numbers.
std::vector<std::string> files_of(const std::string & model);

// So that the next reader has to read it from the disk. An error if the system keeps it all the same: another program
// has it mapped, or it lies in a file system that is memory.
Result<> drop_from_memory(const std::string & model);

}  // namespace caravan::bench
