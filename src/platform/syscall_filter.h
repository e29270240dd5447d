// A seccomp filter: refuses system calls to processes that parse untrusted input.
#pragma once

#include "base/error.h"

namespace caravan::platform {

enum class Network {
    none,     // no new socket
    connect,  // outgoing TCP and UDP, and the netlink protocols that libc and RDMA use
};

// Installs the filter for all threads of the process, irreversibly. `may_bind_threads`: permit to set the CPU affinity of
// threads by their ids, including those of other processes, which a filter cannot distinguish. The process must have
// no_new_privs or be root. Errc::unsupported: the kernel has no seccomp filters, or there is no filter for this architecture.
Result<> refuse_syscalls(Network network, bool may_bind_threads = false);

}  // namespace caravan::platform
