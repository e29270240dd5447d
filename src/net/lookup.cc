#include "net/lookup.h"

#include <atomic>
#include <condition_variable>
#include <memory>
#include <mutex>
#include <optional>
#include <thread>

#include "platform/address.h"

namespace caravan::net {
namespace {

struct Pending {
    std::mutex mutex;
    std::condition_variable done;
    std::optional<Result<std::vector<Endpoint>>> found;
};

std::atomic<int> running = 0;

}  // namespace

Result<std::vector<Endpoint>> addresses_within(const Endpoint & endpoint, TimePoint deadline, const Lookup & lookup) {
    if (platform::parse_ip(endpoint.host)) {
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
