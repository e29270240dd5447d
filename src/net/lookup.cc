#include "net/lookup.h"

#include <arpa/inet.h>

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

namespace caravan::net {
namespace {

struct Pending {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<Result<std::vector<Endpoint>>> found;
};

std::atomic<int> running = 0;

bool is_numeric(const std::string & host) {
    in6_addr ignored{};
    const std::string address = host.substr(0, host.find('%'));  // fe80::1%eth0
    return ::inet_pton(AF_INET, address.c_str(), &ignored) == 1 || ::inet_pton(AF_INET6, address.c_str(), &ignored) == 1;
}

}  // namespace

Result<std::vector<Endpoint>> addresses_within(const Endpoint & endpoint, TimePoint deadline, const Lookup & lookup) {
    if (is_numeric(endpoint.host)) {
        return lookup(endpoint);
    }
    if (++running > max_lookups) {
        --running;
        return fail(Errc::timed_out, "cannot resolve {}: {} earlier lookups have not finished", endpoint.host, max_lookups);
    }
    const auto pending = std::make_shared<Pending>();
    std::thread([pending, endpoint, lookup] {
        auto found = lookup(endpoint);
        --running;
        const std::lock_guard lock(pending->mutex);
        pending->found = std::move(found);
        pending->done.notify_all();
    }).detach();
    std::unique_lock lock(pending->mutex);
    if (!pending->done.wait_until(lock, deadline, [&] { return pending->found.has_value(); })) {
        return fail(Errc::timed_out, "{} was not resolved in time", endpoint.host);
    }
    return std::move(*pending->found);
}

}  // namespace caravan::net
