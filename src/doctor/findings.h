// Derives findings and advice from facts. Pure functions; tests supply the facts.
#pragma once

#include <string>
#include <vector>

#include "doctor/endpoint.h"
#include "doctor/machine.h"

namespace caravan::doctor {

struct Finding {
    enum class Mark {
        well,
        note,  // worth knowing; nothing is wrong
        fix,   // a fault
    };
    Mark mark = Mark::well;
    std::string what;
    std::string advice;  // what the user can do; may be empty
};
using Findings = std::vector<Finding>;

// A fault that prevents RDMA only is a note, unless the user requests RDMA (Machine::asks_for_rdma) or both peers have RDMA
// and it fails.
Findings findings_of(const Machine & machine);
Findings findings_of(const Machine & machine, const EndpointFacts & endpoint);

bool any_to_fix(const Findings & findings);

}  // namespace caravan::doctor
