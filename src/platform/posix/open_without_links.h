// For the POSIX and Linux files of this module, and landlock.cc.
#pragma once

#include "platform/unique_fd.h"

namespace caravan::platform {

// As open(2) with O_CLOEXEC, but fails if any component of `path` is a symbolic link. (Linux before 5.6 and other systems
// check the last component only.)
Descriptor open_without_links(const char * path, int flags);

}  // namespace caravan::platform
