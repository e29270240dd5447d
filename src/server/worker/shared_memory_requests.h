// A worker's requests to the supervisor to make and open shared memory. One at a time.
#pragma once

#include <condition_variable>
#include <functional>
#include <mutex>
#include <optional>

#include "server/ipc/control.h"
#include "server/links/memory_source.h"

namespace caravan::server {

class SharedMemoryRequests final : public MemorySource {
public:
    using Send = std::function<bool(const ControlMessage & message)>;
    explicit SharedMemoryRequests(Send send) : send_(std::move(send)) {}

    // For the session's thread.
    Result<Made> make() override;
    Result<UniqueFd> open(const wire::MemoryPlace & place) override;
    void release(const wire::MemoryPlace & place) override;

    // Accepts the supervisor's reply. Any thread.
    void on_reply(ReceivedControl reply);

private:
    Result<ReceivedControl> ask(ControlMessage message);

    const Send send_;
    std::mutex mutex_;
    std::condition_variable changed_;
    uint64_t asked_ = 0;  // number of the last request
    std::optional<ReceivedControl> reply_;
};

}  // namespace caravan::server
