#include "client/session/server_transfers.h"

#include <algorithm>

#include "base/log.h"
#include "client/session/connection.h"
#include "client/session/order_lock.h"
#include "client/session/program_clock.h"

namespace caravan::client {
namespace {

std::atomic<uint64_t> next_id = 0;

}  // namespace

using wire::Command;

ServerTransfers::ServerTransfers(CommandQueue & queue) : queue_(queue), id_(next_id++) {}

Result<ServerLink> ServerTransfers::make_link(Connection & source) {
    const auto token = queue_.query<uint64_t>(static_cast<Command>(wire::NativeCommand::invite));
    if (!token) {
        return std::unexpected(token.error());
    }
    const std::string endpoint = queue_.endpoint().text();
    if (*token == 0) {
        return fail(Errc::unavailable, "{} does not accept links", endpoint);
    }
    ServerLink link{*token, source.transfers().next_link_++, source.weak_from_this()};
    const auto kind = source.transfers().connect(link, endpoint);
    if (!kind) {
        return std::unexpected(kind.error());
    }
    link.kind = *kind;
    return link;
}

Result<net::TransportKind> ServerTransfers::connect(const ServerLink & link, const std::string & endpoint) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (queue_.failure()) {
        return std::unexpected(*queue_.failure());
    }
    Stream & stream = queue_.stream();
    queue_.native().post_native(wire::NativeCommand::connect, wire::ConnectRequest{link.number, link.token},
                                endpoint.size());
    std::ranges::copy(const_bytes(endpoint.data(), endpoint.size()), stream.append(endpoint.size()).begin());
    uint8_t is_rdma = 0;
    queue_.await(lock, stream.expect(mutable_bytes(&is_rdma, sizeof is_rdma), true));
    if (auto refusal = stream.take_refusal()) {
        return fail(Errc::unavailable, "{}", *refusal);
    }
    const auto kind = queue_.decode_flag(is_rdma) ? net::TransportKind::rdma : net::TransportKind::tcp;
    if (queue_.failure()) {
        return std::unexpected(*queue_.failure());
    }
    return kind;
}

void ServerTransfers::transfer(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                               const Range & to) {
    ServerLink link;
    if (queue_.is_native() && source.is_native()) {
        link = links_.link_from(source.transfers().id_, [&] {
            auto made = make_link(source);
            if (made) {
                log_info("RPC server {} sends directly to {} over {}", source.endpoint().text(), queue_.endpoint().text(),
                         text_of(made->kind));
            } else {
                log_info("RPC servers: no direct link from {} to {} ({}); relaying through the client",
                         source.endpoint().text(), queue_.endpoint().text(), made.error().text);
            }
            return made;
        });
    }
    if (link.token == 0) {
        relay(source, src, from, dst, to);
        return;
    }
    if (from.end == from.begin) {
        return;
    }
    const bool is_pushed = source.transfers().push(link, src, from);
    const auto order = lock_order();
    auto lock = queue_.lock();
    queue_.begin(lock);
    queue_.undelivered().record_write(to, is_pushed);
    if (is_pushed && !queue_.failure()) {
        queue_.send_held(to);
        queue_.native().take(link.token, dst);
        queue_.stream().count_launch();  // the server reports a failed TAKE as a failed launch
    }
}

bool ServerTransfers::push(const ServerLink & link, const wire::Region & src, const Range & from) {
    auto lock = queue_.lock();
    queue_.begin_read(lock);
    if (queue_.failure() || queue_.undelivered().overlaps(from)) {
        return false;
    }
    queue_.send_held(from);
    queue_.native().push(link.number, src);
    queue_.prediction().record_habit(std::nullopt, ProgramClock::now());
    queue_.flush(lock);  // the target waits for this data, and the program may wait for the target
    return !queue_.failure();
}

void ServerTransfers::relay(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                            const Range & to) {
    {
        auto lock = queue_.lock();
        queue_.begin(lock);
        if (queue_.failure() || from.end == from.begin) {
            return;
        }
        if (!queue_.relays().empty()) {
            queue_.flush(lock);  // starts what depends on the last relay while the source computes this one
        }
    }
    std::vector<std::byte> bytes(from.end - from.begin);
    const auto ticket = source.data().get_for_relay(src, from, bytes);
    const bool is_read = ticket.number != 0 && !source.failed();  // a thread locks one connection at a time
    auto order = lock_order();
    auto lock = queue_.lock();
    if (queue_.failure()) {
        lock.unlock();
        order.unlock();
        source.await(ticket);
        return;
    }
    queue_.send_held(to);
    if (!is_read) {  // the source is lost, or its data is undelivered
        queue_.undelivered().record_write(to, false);
        return;
    }
    queue_.undelivered().record_write(to, true);
    // The hole begins at the header: a server does not wait long for the rest of a message.
    const uint64_t begin = queue_.stream().position();
    queue_.commands().write(dst, 0, bytes.size(), false);
    queue_.relays().add(source.shared_from_this(), ticket, begin, std::move(bytes));
}

void ServerTransfers::probe_sources() {
    links_.mark_stale();
    for (const auto & source : links_.sources()) {
        (void)source->queries().device_count();
    }
}

}  // namespace caravan::client
