// The sandbox of processes that parse untrusted input. It is irreversible and set up before the first untrusted byte is read:
// no_new_privs, no tracing, no core dumps, and limits on capabilities, system calls and files (capabilities.h, syscall_filter.h
// and landlock.h of platform/).
#pragma once

#include <string>

#include "cache/layout.h"
#include "cache/weights.h"
#include "platform/landlock.h"
#include "platform/syscall_filter.h"

namespace caravan::server {

using platform::FileRules;
using platform::Network;

struct Confinement {
    Network network = Network::connect;
    FileRules files;
};

// For a worker: it may read its libraries and use the files of `own`. With other devices than CPUs it may read any file, and
// write driver devices and the drivers' caches of compiled code. A compromised worker can plant code in these caches, which
// later sessions run; without them each session recompiles for up to minutes (docs/gpu.md).
Confinement worker_confinement(bool cpus_only, FileRules own);

// To store weights: files are created in tmp/ of the store and moved into place. Digests of model files are read-only.
FileRules store_rules(const cache::Layout & store);
// For a session: the store, and the model files that were found in the model folders.
FileRules weight_rules(const cache::WeightOptions & options, const cache::Weights & weights);
// For the indexer of model files: it writes their digests only.
FileRules indexer_rules(const cache::Layout & store);

struct Confined {
    std::string text;       // the limits in force, and which are missing and why
    bool is_sealed = false;  // no thread can write a file in a `receiving` folder under any name
};

// Applies every limit that this system supports, to all threads where possible.
Confined confine(const Confinement & confinement);

}  // namespace caravan::server
