// Prints a report as text for people and as JSON for programs.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "doctor/all_reduce.h"
#include "doctor/findings.h"

namespace caravan::doctor {

struct Report {
    std::string program;  // "rpc-doctor (Caravan 0.1.0, RPC protocol 8.0.0)"
    Machine machine;
    std::vector<EndpointFacts> endpoints;
    std::optional<AllReduceFacts> all_reduce;  // over all endpoints, if there are several
};

// True if this machine or an endpoint has a fault.
bool any_to_fix(const Report & report);

std::string page(const Report & report);

// Keys keep their meaning; new ones may be added. null: unknown or not measured; for memlock_bytes: no limit.
std::string json(const Report & report);

}  // namespace caravan::doctor
