// What a process that reads hostile bytes gives up, for the rest of its life, before it reads the first of them:
// no_new_privs, being traced, core dumps, capabilities (capabilities.h), system calls (syscall_filter.h), files (landlock.h).
#pragma once

#include <string>

#include "cache/layout.h"
#include "cache/weights.h"
#include "server/landlock.h"
#include "server/syscall_filter.h"

namespace caravan::server {

struct Confinement {
    Network network = Network::connect;
    FileRules files;
};

// A session's worker: it reads its own libraries, and uses `own` files. With devices that are no CPUs it reads anywhere, and
// writes drivers' devices and their caches of compiled code. A worker that has fallen to its client can plant code there, which
// later sessions run: without these caches each session compiles anew, for minutes (docs/gpu.md).
Confinement worker_confinement(bool cpus_only, FileRules own);

// To keep weights in the store: files are made in its tmp/, and moved. Digests of model files are read only.
FileRules store_rules(const cache::Layout & store);
// What a session is to reach of this machine's files: the store, and of the model folders the model files that were found.
FileRules weight_rules(const cache::WeightOptions & options, const cache::Weights & weights);
// Of the process that looks through model files: it writes down their digests, and nothing else.
FileRules indexer_rules(const cache::Layout & store);

struct Confined {
    std::string text;       // what is in force, and what is missing and why
    bool is_sealed = false;  // no thread can write a file in a `receiving` place, by this or another name
};

// All that this system can do, for all threads where it can.
Confined confine(const Confinement & confinement);

}  // namespace caravan::server
