// What a process that reads hostile bytes gives up, for the rest of its life, before it reads the first of them:
// no_new_privs, being traced, core dumps, system calls (syscall_filter.h), files (landlock.h).
#pragma once

#include <filesystem>
#include <string>
#include <vector>

#include "server/landlock.h"
#include "server/syscall_filter.h"

namespace caravan::server {

struct Confinement {
    Network network = Network::connect;
    FileRules files;
};

// A session's worker: it reads its own libraries, `readable` and `writable`, and writes `writable`. With devices that are
// no CPUs it reads anywhere, and writes devices and what drivers keep of compiled code: what they need is not ours to
// know.
Confinement worker_confinement(bool cpus_only, std::vector<std::filesystem::path> readable,
                               std::vector<std::filesystem::path> writable);

// All that this system can do, for all threads where it can. In words: what is in force, and what is missing and why.
std::string confine(const Confinement & confinement);

}  // namespace caravan::server
