// Proves, before a session commits to RDMA, that every operation of its data path works between two queue pairs: a message that
// fills a slot, and an empty RDMA WRITE. Not for the data path itself.
#pragma once

#include <functional>
#include <memory>
#include <span>
#include <vector>

#include "base/clock.h"
#include "net/rdma/queue_pair.h"

namespace caravan::net::rdma {

// Returns true to stop waiting, because either end has given up. Called at most once in a millisecond.
using HasGivenUp = std::function<bool()>;

// The client writes 0 bytes, sends its token message once the server's adapter has acknowledged that, and then awaits the
// server's token. The server awaits the client's token, and does the same in turn.
enum class Prover { client, server };

// Proves all `pairs` at the same time; null: none. The peer's must be in state RTR. Returns the result for each. After the
// first success a client waits for the others for rdma_rail_patience at most.
std::vector<Result<>> prove(std::span<const std::unique_ptr<QueuePair>> pairs, Prover prover, TimePoint deadline,
                            const HasGivenUp & has_given_up = {});

}  // namespace caravan::net::rdma
