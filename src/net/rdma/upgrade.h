// Changing a fresh Caravan-to-Caravan connection from TCP to RDMA. Whatever goes wrong with RDMA at any step on either
// side, the socket stays usable and both sides know that the session goes on over TCP. Only if TCP fails while they agree
// (an answer that does not come in time is such a failure: it may come later, in the middle of a session) is the
// connection to be given up.
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
#include <string>

#include "base/unique_fd.h"
#include "net/transport.h"
#include "wire/extension.h"

namespace caravan::net::rdma {

// What both sides agreed on.
struct Upgrade {
    std::unique_ptr<Transport> transport;  // null: TCP
    std::string why_not;                   // then: the reason, for the log
};
// Each takes the socket only if it returns a transport. Logs what it does. Error: the sides do not agree on anything.
Result<Upgrade> offer(UniqueFd & socket, TimePoint deadline);
// `offer` has arrived; the answer and the rest are exchanged here.
Result<Upgrade> answer(UniqueFd & socket, const wire::RdmaOffer & offer);

}  // namespace caravan::net::rdma
