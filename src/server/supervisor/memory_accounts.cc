#include "server/supervisor/memory_accounts.h"

#include <algorithm>
#include <fstream>
#include <limits>
#include <string>

#include "base/formatted.h"
#include "platform/pages.h"

namespace caravan::server {
namespace {

uint64_t promised(const Holding & session) { return session.allocated - std::min(session.allocated, session.touched); }

}  // namespace

uint64_t available_memory() {
    std::ifstream file("/proc/meminfo");
    for (std::string name; file >> name; file.ignore(std::numeric_limits<std::streamsize>::max(), '\n')) {
        if (uint64_t kibibytes = 0; name == "MemAvailable:" && file >> kibibytes) {
            return kibibytes * 1024;
        }
    }
    return UINT64_MAX;
}

uint64_t resident_memory(platform::ProcessId process) {
    std::ifstream file(formatted("/proc/{}/statm", process));
    uint64_t all = 0, resident = 0;
    return file >> all >> resident ? resident * page_size() : 0;
}

uint64_t unpromised(uint64_t available, std::span<const Holding> sessions) {
    for (const Holding & session : sessions) {
        available -= std::min(available, promised(session));
    }
    return available;
}

bool may_allocate(uint64_t bytes, uint64_t touched, uint64_t available, std::span<const Holding> others) {
    const bool is_alone = std::ranges::all_of(others, [](const Holding & other) { return other.allocated == 0; });
    return is_alone || promised({bytes, touched}) <= unpromised(available, others);
}

}  // namespace caravan::server
