// Servers to which RDMA has failed in the last minute: the next sessions of this process do not wait for it again.
// Threads: any.
#pragma once

#include <mutex>
#include <string>
#include <unordered_map>

#include "base/clock.h"
#include "net/no_rdma.h"

namespace caravan::net::rdma {

class RecentFailures {
public:
    static constexpr size_t max_servers = 256;  // further failures are not remembered

    void add(const std::string & server, NoRdma why, TimePoint now);
    void remove(const std::string & server);
    // Why RDMA should not be tried now; empty if it may be.
    NoRdma reason(const std::string & server, TimePoint now) const;

private:
    struct Failure {
        NoRdma why;
        TimePoint at;
    };
    mutable std::mutex mutex_;
    std::unordered_map<std::string, Failure> failures_;
};

}  // namespace caravan::net::rdma
