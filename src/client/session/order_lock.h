// The order of commands that make servers wait for each other: sums over several servers, and data that comes from another one.
//
// If two threads queued such commands for the same servers in different orders, each server could wait for what the other one
// reaches only later. So all commands of one sum, and each command that receives data, are queued under this lock. It is taken
// after the mutex of ServerLinks and before the lock of any session, and nothing waits for a server while it is held, except
// for replies to earlier commands. docs/model/reduce.pml shows the deadlock.
#pragma once

#include <mutex>

namespace caravan::client {

inline std::unique_lock<std::mutex> lock_order() {
    static std::mutex & only = *new std::mutex();  // threads may use it until the process exits
    return std::unique_lock(only);
}

}  // namespace caravan::client
