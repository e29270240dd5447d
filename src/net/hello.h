// HELLO, the first exchange on each connection: versions and capabilities.
#pragma once

#include <cstdint>
#include <string>

#include "base/clock.h"
#include "base/error.h"
#include "platform/unique_fd.h"
#include "wire/extension.h"

namespace caravan::net {

#ifdef GGML_RPC_RDMA
inline constexpr bool built_with_rdma = true;
#else
inline constexpr bool built_with_rdma = false;
#endif

// The reason why this program cannot use RDMA (build option, missing libibverbs), or "". The first call loads libibverbs.
// Threads: any.
const std::string & why_no_rdma();

// The capabilities of this build and environment, for HELLO. The token is 0.
wire::Extension own_extension();

// The client's side: sends HELLO with own_extension() and `token`, and returns the reply of any version. Blocks.
// Errc::protocol: the reply is not of the RPC protocol.
Result<wire::HelloReply> exchange_hello(SocketHandle socket, uint64_t token, TimePoint deadline);
// The same with other capabilities, as a stock client sends them.
Result<wire::HelloReply> exchange_hello(SocketHandle socket, const wire::HelloRequest & hello, TimePoint deadline);

// True if this client can use a server of that version.
bool is_compatible(const wire::HelloReply & server);

}  // namespace caravan::net
