#include "platform/poll.h"

#include <algorithm>
#include <cerrno>

namespace caravan::platform {

Result<int> poll(std::span<Watch> watches, int timeout_ms) {
    const int ready = ::poll(watches.data(), static_cast<nfds_t>(watches.size()), timeout_ms);
    if (ready < 0 && errno != EINTR) {
        return fail(Errc::io, "poll failed: {}", errno_text(errno));
    }
    return std::max(ready, 0);
}

}  // namespace caravan::platform
