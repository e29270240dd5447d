// What goes from one server to another: over links between them, or through this process.
#include <algorithm>

#include "base/log.h"
#include "client/connection.h"

namespace caravan::client {

using wire::Command;

Connection::Link Connection::link_from(Connection & source) {
    if (native_ == nullptr || source.native_ == nullptr) {
        return {};
    }
    std::lock_guard lock(links_mutex_);
    if (links_suspect_.exchange(false)) {
        links_.clear();
    }
    if (const auto known = links_.find(source.id_); known != links_.end()) {
        return known->second;
    }
    const auto made = make_link(source);
    if (!made) {
        log_info("RPC servers {} and {} do not reach each other ({}): what they exchange passes through this machine",
                 source.endpoint_.text(), endpoint_.text(), made.error().text);
    }
    return links_[source.id_] = made.value_or(Link{});
}

Result<Connection::Link> Connection::make_link(Connection & source) {
    const auto token = ask<uint64_t>(static_cast<Command>(wire::NativeCommand::invite));
    if (!token) {
        return std::unexpected(token.error());
    }
    if (*token == 0) {
        return fail(Errc::unavailable, "{} takes no links", endpoint_.text());
    }
    const Link link{*token, source.next_link_++, source.weak_from_this()};
    const auto kind = source.connect(link, endpoint_.text());
    if (!kind) {
        return std::unexpected(kind.error());
    }
    log_info("RPC server {} sends straight to {}, over {}", source.endpoint_.text(), endpoint_.text(), *kind);
    return link;
}

Result<std::string> Connection::connect(const Link & link, const std::string & endpoint) {
    Lock lock(stream_.mutex());
    before_other_command(lock);
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
    const std::string kind = has_flag(is_rdma) ? "rdma" : "tcp";
    if (stream_.failure()) {
        return std::unexpected(*stream_.failure());
    }
    return kind;
}

void Connection::transfer(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                          const Range & to) {
    const Link link = link_from(source);
    if (link.token == 0) {
        relay(source, src, from, dst, to);
        return;
    }
    if (from.end == from.begin) {
        return;
    }
    const bool is_pushed = source.push(link, src, from);
    Lock lock(stream_.mutex());
    before_other_command(lock);
    note_write(to, is_pushed);
    if (is_pushed && !stream_.failure()) {
        append_held(idle_writes_.take_overlapping(to));
        native_->take(link.token, dst);
        stream_.note_launch();  // a server reports a broken link so
    }
}

bool Connection::push(const Link & link, const wire::Region & src, const Range & from) {
    Lock lock(stream_.mutex());
    discard_foreseen();
    settle_finds(lock);
    if (stream_.failure() || is_undelivered(from)) {
        return false;
    }
    append_held(idle_writes_.take_overlapping(from));
    native_->push(link.number, src);
    note_read();
    flush(lock);  // the other server waits for this, and the program perhaps for that server
    return !stream_.failure();
}

void Connection::relay(Connection & source, const wire::Region & src, const Range & from, const wire::Region & dst,
                       const Range & to) {
    {
        Lock lock(stream_.mutex());
        before_other_command(lock);
        if (stream_.failure() || from.end == from.begin) {
            return;
        }
        if (!relays_.empty()) {
            flush(lock);  // what the last relay feeds starts now, while the source works on this one
        }
    }
    std::vector<std::byte> bytes(from.end - from.begin);
    const auto ticket = source.get(src, from, 0, bytes, Stream::Absent::nan, Reader::relay);
    const bool is_read = ticket.number != 0 && !source.failed();  // its lock is never taken while ours is held
    Lock lock(stream_.mutex());
    if (stream_.failure()) {
        lock.unlock();
        source.await(ticket);
        return;
    }
    append_held(idle_writes_.take_overlapping(to));
    if (!is_read) {  // it is lost, or never got what is to be copied
        note_write(to, false);
        return;
    }
    note_write(to, true);
    // Held back from its header on: a server does not wait long for the rest of a message.
    const uint64_t begin = stream_.position();
    const ConstBytes in_hole(bytes);
    commands_->write(dst, 0, bytes.size(), false);
    stream_.append_hole(begin, std::move(bytes));
    relays_.push_back({source.shared_from_this(), ticket, begin, in_hole});
}

// After a failed launch. Perhaps a link broke since the server at its other end is gone: that one is asked something, so
// that the log names the server that is to blame.
void Connection::suspect_links() {
    links_suspect_ = true;
    std::vector<std::shared_ptr<Connection>> sources;
    {
        std::lock_guard lock(links_mutex_);
        for (const auto & [id, link] : links_) {
            if (auto source = link.source.lock()) {
                sources.push_back(std::move(source));
            }
        }
    }
    for (const auto & source : sources) {
        (void)source->device_count();
    }
}

}  // namespace caravan::client
