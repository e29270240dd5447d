#include "platform/unique_fd.h"

#include <unistd.h>

namespace caravan::platform {

void close_descriptor(Descriptor fd) { ::close(fd); }

}  // namespace caravan::platform
