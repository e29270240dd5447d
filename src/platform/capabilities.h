// Linux capabilities: the privileges of root. A server that root runs has all of them.
#pragma once

#include <string>

#include "platform/landlock.h"

namespace caravan::platform {

// Drops the capabilities of the calling thread, and of threads that it starts later, irreversibly. A capability that overrides
// file permissions is kept if a path of `files` (models and the store) is inaccessible without it, such as a model in another
// user's private folder. Lifts the limit of locked memory (RLIMIT_MEMLOCK), which RDMA needs; where it cannot, it keeps the
// capability to lock memory.
//
// Returns text for the log: the kept capabilities, and whether other threads keep all.
std::string drop_capabilities(const FileRules & files);

}  // namespace caravan::platform
