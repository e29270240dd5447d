// Drops the file of a model from the page cache.
#pragma once

#include <string>
#include <vector>

#include "base/error.h"

namespace caravan::bench {

// The files of a model: `model`, or all parts of a split model (NAME-00001-of-00003.gguf), in the order of their numbers.
std::vector<std::string> files_of(const std::string & model);

// Drops the files of a model, so that the next reader reads them from the disk. Errc::unavailable if the system keeps them:
// another program has mapped them, or the file system is in memory.
Result<> drop_from_memory(const std::string & model);

}  // namespace caravan::bench
