// The facts that workers report while they load. Each worker reports all of them, and the last one counts.
#pragma once

#include <string>
#include <vector>

#include "server/ipc/control.h"

namespace caravan::server {

class WorkerReports {
public:
    // Takes a message of a worker that loads, and logs changes. Ignores other kinds of messages.
    void receive(const ControlMessage & message);

    const std::vector<ControlMessage> & devices() const { return devices_; }
    const std::string & confinement() const { return confinement_; }  // for the log
    // Why the cache stores no uploaded weights; empty if it stores them or is off. Blobs stored before may still be readable.
    const std::string & cache_problem() const { return cache_problem_; }
    bool cache_is_readable() const { return cache_is_readable_; }

private:
    std::vector<ControlMessage> devices_;
    std::string confinement_, cache_problem_, last_note_;
    bool cache_is_readable_ = false;
};

}  // namespace caravan::server
