// Where a session gets the memory that it shares with sessions of other servers of this machine: from its server's main
// process, because a worker may neither open descriptors of other processes nor connect to local sockets.
#pragma once

#include <array>

#include "base/error.h"
#include "platform/unique_fd.h"
#include "wire/shared_memory.h"

namespace caravan::server {

class MemorySource {
public:
    struct Made {
        UniqueFd memory;
        wire::MemoryPlace place{};  // where other processes find it
    };

    virtual ~MemorySource() = default;

    // Memory of wire::shared_memory_size with a random secret.
    virtual Result<Made> make() = 0;
    // What the source of another session has made there, with its secret. Fails for anything else.
    virtual Result<UniqueFd> open(const wire::MemoryPlace & place) = 0;
    // No other process needs to find it any more.
    virtual void release(const wire::MemoryPlace & place) = 0;
};

}  // namespace caravan::server
