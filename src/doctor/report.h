// One page for people, and the same as JSON for programs.
#pragma once

#include <string>
#include <vector>

#include "doctor/findings.h"

namespace caravan::doctor {

struct Report {
    std::string program;  // "rpc-doctor (Caravan 0.1.0, RPC protocol 8.0.0)"
    Machine machine;
    std::vector<EndpointFacts> endpoints;
};

// Is there something to fix, here or with an endpoint?
bool any_to_fix(const Report & report);

std::string page(const Report & report);

// Keys do not change their meaning; new ones may come. null: not known, not measured; of memlock_bytes: no limit.
std::string json(const Report & report);

}  // namespace caravan::doctor
