#include "platform/pages.h"

#include <unistd.h>

namespace caravan {

uint64_t page_size() {
    static const auto size = static_cast<uint64_t>(::sysconf(_SC_PAGESIZE));
    return size;
}

}  // namespace caravan
