// From facts to advice. Pure: tests make the facts up.
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
        fix,   // stands in the way
    };
    Mark mark = Mark::well;
    std::string what;
    std::string advice;  // what to do; "" if there is nothing to do
};
using Findings = std::vector<Finding>;

// What stands in the way of RDMA only is a note, unless the user asks for RDMA (Machine::asks_for_rdma) or both ends have
// it and it fails.
Findings findings_of(const Machine & machine);
Findings findings_of(const Machine & machine, const EndpointFacts & endpoint);

bool any_to_fix(const Findings & findings);

}  // namespace caravan::doctor
