#include "server/links/links.h"

#include <thread>

#include "base/log.h"
#include "base/random.h"
#include "net/endpoint.h"
#include "tunables/links.h"

namespace caravan::server {

uint64_t Links::invite() {
    const uint64_t token = random_token();
    {
        std::lock_guard lock(mutex_);
        if (receivers_.size() >= max_links || !receivers_.emplace(token, nullptr).second) {
            return 0;
        }
    }
    if (!announce_(token)) {
        std::lock_guard lock(mutex_);
        receivers_.erase(token);
        return 0;
    }
    return token;
}

bool Links::claim(uint64_t token) {
    std::lock_guard lock(mutex_);
    const auto invited = receivers_.find(token);
    return invited != receivers_.end() && claimed_.insert(token).second;
}

void Links::unclaim(uint64_t token) {
    std::lock_guard lock(mutex_);
    claimed_.erase(token);
}

void Links::accept(uint64_t token, std::unique_ptr<net::Transport> connection, bool resumes, bool shares_memory) {
    std::lock_guard lock(mutex_);
    const auto invited = receivers_.find(token);
    if (invited == receivers_.end() || invited->second != nullptr || !claimed_.contains(token)) {
        return;
    }
    if (resumes) {
        auto resumable = std::make_unique<net::ResumableTransport>(
            std::move(connection),
            net::ResumableTransport::Options{.name = "another server", .grace = grace_, .reconnect = {}});
        on_resumable(token, *resumable);
        connection = std::move(resumable);
    }
    invited->second = std::make_unique<LinkReceiver>(std::move(connection), shares_memory);
    invited->second->bytes().limit_silence(silence_limit_);
    connected_.notify_all();
}

LinkReceiver * Links::receiver(uint64_t token) {
    std::unique_lock lock(mutex_);
    const auto invited = receivers_.find(token);
    if (invited == receivers_.end()) {
        return nullptr;
    }
    connected_.wait_for(lock, tunable::link_connect_wait, [&] { return invited->second != nullptr; });
    return invited->second.get();
}

void Links::limit_silence(milliseconds limit) {
    std::lock_guard lock(mutex_);
    silence_limit_ = limit;
    for (const auto & [token, receiver] : receivers_) {
        if (receiver != nullptr) {
            receiver->bytes().limit_silence(limit);
        }
    }
}

void Links::drop_receiver(uint64_t token) {
    std::unique_lock lock(mutex_);
    const auto dropped = receivers_.extract(token);
    claimed_.erase(token);
    lock.unlock();
    if (dropped && on_dropped) {
        on_dropped(token);
    }
}

// Connects to addresses that were checked, not to the name, which could resolve to another address the next time.
Result<net::OpenedLink> Links::open_link(const net::Endpoint & endpoint, uint64_t token, TimePoint deadline,
                                         milliseconds rdma_wait) const {
    const auto addresses = net::addresses_within(endpoint, deadline, lookup_);
    if (!addresses) {
        return std::unexpected(addresses.error());
    }
    Error last{Errc::invalid_argument, formatted("not within --links ({})", networks_.text())};
    for (const net::Endpoint & address : *addresses) {
        if (!networks_.contains(address.host)) {
            continue;
        }
        auto link = net::open_link(address, token, deadline, rdma_wait);
        if (link) {
            return link;
        }
        last = link.error();
    }
    return std::unexpected(last);
}

Result<net::TransportKind> Links::connect(uint16_t link, uint64_t token, const std::string & text,
                                          milliseconds rdma_wait) {
    if (senders_.size() >= max_links || senders_.contains(link)) {
        return fail(Errc::invalid_argument, "link {} already exists, or there are too many links", link);
    }
    const auto endpoint = net::parse_endpoint(text);
    if (!endpoint) {
        return std::unexpected(endpoint.error());
    }
    if (endpoint->kind != net::Endpoint::Kind::tcp) {
        return fail(Errc::unsupported, "links require TCP or RDMA");
    }
    const TimePoint deadline = Clock::now() + connect_time_;
    auto opened = open_link(*endpoint, token, deadline, rdma_wait);
    if (!opened) {
        log_warning("cannot open the link to {} that the client requested: {}", text, opened.error().text);
        std::this_thread::sleep_until(deadline);
        return fail(Errc::unavailable, "cannot open a link to {}; see the server's log for the reason", text);
    }
    const net::TransportKind kind = opened->transport->kind();
    log_info("linked with the server at {} over {}", text, text_of(kind));
    senders_.emplace(link, std::make_unique<LinkSender>(std::move(opened->transport), backlog_bytes_, opened->shares_memory));
    return kind;
}

LinkSender * Links::sender(uint16_t link) {
    const auto found = senders_.find(link);
    return found == senders_.end() ? nullptr : found->second.get();
}

}  // namespace caravan::server
