// How fast a resumable stream reacts to losses. Tests shorten these times.
#pragma once

#include <functional>

#include "base/clock.h"
#include "base/retry.h"
#include "tunables/resume.h"

namespace caravan::net {

struct Pace {
    milliseconds idle_check = tunable::idle_check_interval;  // the active end checks an idle connection at this interval
    milliseconds probe_after = tunable::unacknowledged_probe_after;
    std::function<microseconds(microseconds pause)> pause = jittered;  // the actual pause before an attempt
};

}  // namespace caravan::net
