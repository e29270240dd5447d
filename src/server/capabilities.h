// Linux capabilities: what root may do that other users may not. A server that root runs has them all.
#pragma once

#include <string>

#include "server/landlock.h"

namespace caravan::server {

// Drops all capabilities of the calling thread, and of those that it starts from now on, for ever. One that overrides
// permissions of files is kept if what `files` name (of models and the store) cannot be used without: another user's model
// in a folder of his own. How much memory may be locked, which RDMA needs, is no longer limited then; where that limit cannot
// be lifted, the capability to lock more is kept.
//
// In words: what is kept, and whether there are threads that keep all.
std::string drop_capabilities(const FileRules & files);

}  // namespace caravan::server
