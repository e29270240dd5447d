#include "net/no_rdma.h"

#include <array>

namespace caravan::net {
namespace {

struct Words {
    std::string_view words;
    Reason reason;
};
// The first match applies.
constexpr std::array known{
    Words{"memlock", Reason::memlock_limit},
    Words{"over RDMA", Reason::no_rdma_path},
    Words{"libibverbs", Reason::no_rdma_library},
    Words{"no RDMA device", Reason::no_rdma_device},
    Words{"cannot open RDMA device", Reason::rdma_device_closed},
    Words{"to RTR failed", Reason::no_rdma_path},
    Words{"is not active", Reason::rdma_port_inactive},
    Words{"no GID for", Reason::no_rdma_gid},
    Words{"GGML_RDMA_", Reason::rdma_setting},
};

}  // namespace

Reason reason_in(std::string_view text) {
    for (const Words & entry : known) {
        if (text.contains(entry.words)) {
            return entry.reason;
        }
    }
    return Reason::unspecified;
}

}  // namespace caravan::net
