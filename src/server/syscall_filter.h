// A seccomp filter: the system calls that a process which reads hostile bytes gives up.
#pragma once

#include "base/error.h"

namespace caravan::server {

enum class Network {
    none,     // no new socket
    connect,  // to other servers, by name: TCP and UDP, and netlink as libc and RDMA use it
};

// For all threads of the process, for ever. `may_bind_threads`: to processors, by their ids; those of other processes' too,
// since a filter cannot tell. It must have no_new_privs, or be root. Errc::unsupported if the kernel has
// no filters, or none are written for this processor.
Result<> refuse_syscalls(Network network, bool may_bind_threads = false);

}  // namespace caravan::server
