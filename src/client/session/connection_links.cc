// Copies from one server to another: over a link between them, or relayed through this process.
#include <algorithm>

#include "base/log.h"
#include "client/session/connection.h"

namespace caravan::client {

using wire::Command;

Result<ServerLink> Connection::make_link(Connection & source) {
    const auto token = query<uint64_t>(static_cast<Command>(wire::NativeCommand::invite));
    if (!token) {
        return std::unexpected(token.error());
    }
    if (*token == 0) {
        return fail(Errc::unavailable, "{} does not accept links", endpoint_.text());
    }
    const ServerLink link{*token, source.next_link_++, source.weak_from_this()};
    const auto kind = source.connect(link, endpoint_.text());
    if (!kind) {
        return std::unexpected(kind.error());
    }
    log_info("RPC server {} sends directly to {} over {}", source.endpoint_.text(), endpoint_.text(), *kind);
    return link;
}

Result<std::string> Connection::connect(const ServerLink & link, const std::string & endpoint) {
    Lock lock(stream_.mutex());
    begin_command(lock);
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    native_->post_native(wire::NativeCommand::connect, wire::ConnectRequest{link.number, link.token}, endpoint.size());
    std::ranges::copy(const_bytes(endpoint.data(), endpoint.size()), stream_.append(endpoint.size()).begin());
    uint8_t is_rdma = 0;
    await_locked(lock, stream_.expect(mutable_bytes(&is_rdma, sizeof is_rdma), true));
    if (auto refusal = stream_.take_refusal()) {
        return fail(Errc::unavailable, "{}", *refusal);
    }
    const std::string kind = decode_flag(is_rdma) ? "rdma" : "tcp";
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    return kind;
}

void Connection::transfer(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                          const Range & to) {
    ServerLink link;
    if (native_ != nullptr && source.native_ != nullptr) {
        link = links_.link_from(source.id_, [&] {
            auto made = make_link(source);
            if (!made) {
                log_info("RPC servers: no direct link from {} to {} ({}); relaying through the client",
                         source.endpoint_.text(), endpoint_.text(), made.error().text);
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
    const bool is_pushed = source.push(link, src, from);
    Lock lock(stream_.mutex());
    begin_command(lock);
    undelivered_.record_write(to, is_pushed);
    if (is_pushed && !stream_.failure()) {
        append_held(idle_writes_.take_overlapping(to));
        native_->take(link.token, dst);
        stream_.count_launch();  // the server reports a failed TAKE as a failed launch
    }
}

bool Connection::push(const ServerLink & link, const wire::Region & src, const Range & from) {
    Lock lock(stream_.mutex());
    discard_prefetched();
    resolve_finds(lock);
    if (stream_.failure() || undelivered_.overlaps(from)) {
        return false;
    }
    append_held(idle_writes_.take_overlapping(from));
    native_->push(link.number, src);
    prediction_.record_habit(std::nullopt, Clock::now());
    flush(lock);  // the target waits for this data, and the program may wait for the target
    return !stream_.failure();
}

void Connection::relay(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                       const Range & to) {
    {
        Lock lock(stream_.mutex());
        begin_command(lock);
        if (stream_.failure() || from.end == from.begin) {
            return;
        }
        if (!relays_.empty()) {
            flush(lock);  // starts what depends on the last relay while the source computes this one
        }
    }
    std::vector<std::byte> bytes(from.end - from.begin);
    const auto ticket = source.get(src, from, 0, bytes, Stream::Absent::nan, Reader::relay);
    const bool is_read = ticket.number != 0 && !source.failed();  // a thread locks one connection at a time
    Lock lock(stream_.mutex());
    if (stream_.failure()) {
        lock.unlock();
        source.await(ticket);
        return;
    }
    append_held(idle_writes_.take_overlapping(to));
    if (!is_read) {  // the source is lost, or its data is undelivered
        undelivered_.record_write(to, false);
        return;
    }
    undelivered_.record_write(to, true);
    // The hole begins at the header: a server does not wait long for the rest of a message.
    const uint64_t begin = stream_.position();
    commands_->write(dst, 0, bytes.size(), false);
    relays_.add(source.shared_from_this(), ticket, begin, std::move(bytes));
}

// After a failed launch, which may be the consequence of a lost server at the other end of a link: probes the sources of
// all links, so that such a loss is logged.
void Connection::probe_link_sources() {
    links_.mark_stale();
    for (const auto & source : links_.sources()) {
        (void)source->device_count();
    }
}

}  // namespace caravan::client
