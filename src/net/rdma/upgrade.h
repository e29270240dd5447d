// Changing a fresh Caravan-to-Caravan connection from TCP to RDMA. Whatever goes wrong at any step on either side, the
// socket stays usable and both sides know that the session goes on over TCP.
//
//   client: queue pair to INIT, offer      ->
//                                          <- server: its own, connected to ours, answer
//   client: connect, token over RDMA       ->
//                                          <- server: token over RDMA
//   client: verdict over TCP               ->
//
// The verdict is yes only if the client has heard the server over RDMA, which speaks only after it has heard the
// client: so both directions have carried a message before either side commits.
#pragma once

#include <memory>

#include "base/unique_fd.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net::rdma {

// Each takes the socket only if it returns a transport. Logs what it does; the error is the reason for the log.
Result<std::unique_ptr<Transport>> offer(UniqueFd & socket, TimePoint deadline);
// `offer` has arrived; the answer and the rest are exchanged here.
Result<std::unique_ptr<Transport>> answer(UniqueFd & socket, const wire::RdmaOffer & offer);

}  // namespace caravan::net::rdma
