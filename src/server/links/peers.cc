#include "server/links/peers.h"

#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <array>

#include "base/config.h"
#include "base/log.h"
#include "base/random.h"
#include "net/endpoint.h"
#include "net/opening.h"
#include "net/socket.h"

namespace caravan::server {
namespace {

// Deadline for a peer to accept a piece.
constexpr seconds stall{60};
// Limit on the bytes that one sender queues; all senders of a session share twice this. Bytes are queued in pieces, so that the
// limit is exceeded by little.
constexpr size_t max_backlog = 256 << 20;
constexpr size_t max_piece = 4 << 20;
constexpr seconds connect_time{3};
// The client sends TAKE only after the other server has connected, so only the handshake's thread can be late.
constexpr seconds connect_wait{10};

}  // namespace

PeerSender::PeerSender(std::unique_ptr<net::Transport> transport, std::atomic<size_t> & backlog)
    : transport_(std::move(transport)), all_backlog_bytes_(backlog) {}

PeerSender::~PeerSender() {
    {
        std::lock_guard lock(mutex_);
        error_ = {Errc::closed, "the sender was closed"};
    }
    changed_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

bool PeerSender::has_room() const {
    return backlog_bytes_ == 0 || (backlog_bytes_ < max_backlog && all_backlog_bytes_ < 2 * max_backlog);
}

Result<> PeerSender::begin(uint64_t size) {
    const wire::PushHeader header{next_++, size};
    return send(const_bytes(&header, sizeof header));
}

Result<> PeerSender::send(ConstBytes bytes) {
    std::unique_lock lock(mutex_);
    while (backlog_.empty() && !sending_ && !error_ && !bytes.empty()) {
        const std::array parts{bytes};
        const auto sent = transport_->send(parts);
        if (!sent) {
            error_ = sent.error();
        } else if (*sent == 0) {
            break;
        } else {
            bytes = bytes.subspan(*sent);
        }
    }
    for (;;) {
        changed_.wait(lock, [&] { return error_ || has_room(); });
        if (error_) {
            return fail(error_->code, "the link to another server broke: {}", error_->text);
        }
        if (bytes.empty()) {
            return {};
        }
        const ConstBytes piece = bytes.first(std::min(bytes.size(), max_piece));
        bytes = bytes.subspan(piece.size());
        backlog_.emplace_back(piece.begin(), piece.end());
        backlog_bytes_ += piece.size();
        all_backlog_bytes_ += piece.size();
        if (!thread_.joinable()) {
            thread_ = std::thread([this] { work(); });
        }
        changed_.notify_all();
    }
}

void PeerSender::work() {
    std::unique_lock lock(mutex_);
    for (;;) {
        changed_.wait(lock, [&] { return error_ || !backlog_.empty(); });
        if (error_) {
            all_backlog_bytes_ -= std::exchange(backlog_bytes_, 0);
            backlog_.clear();
            return;
        }
        const std::vector<std::byte> bytes = std::move(backlog_.front());
        backlog_.pop_front();
        sending_ = true;
        lock.unlock();
        auto sent = net::send_all(*transport_, {bytes}, stall);
        lock.lock();
        sending_ = false;
        backlog_bytes_ -= bytes.size();
        all_backlog_bytes_ -= bytes.size();
        if (!sent) {
            error_ = std::move(sent.error());
        }
        changed_.notify_all();
    }
}

PeerReceiver::PeerReceiver(std::unique_ptr<net::Transport> transport)
    : transport_(std::move(transport)), in_(*transport_, {}, stall, poll_time()) {}

Result<> PeerReceiver::begin(uint64_t size) {
    const auto bytes = in_.peek(sizeof(wire::PushHeader), true);
    if (!bytes) {
        return fail(bytes.error().code == Errc::closed ? Errc::unavailable : bytes.error().code,
                    "the link from another server broke: {}", bytes.error().text);
    }
    const auto header = load<wire::PushHeader>(bytes->data());
    const uint64_t number = header.number, given = header.size;
    if (number != next_ || (given != size && given != wire::push_absent)) {
        return fail(Errc::protocol, "another server sent message {} of {} bytes instead of message {} of {} bytes", number,
                    given, next_, size);
    }
    ++next_;
    in_.take(sizeof header);
    if (given == wire::push_absent) {
        return fail(Errc::unavailable, "another server could not compute the data to send");
    }
    return {};
}

uint64_t Peers::invite() {
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

void Peers::accept(uint64_t token, UniqueFd socket, std::vector<std::byte> first, bool resumes) {
    std::lock_guard lock(mutex_);
    std::erase_if(arrivals_, [](Arrival & arrival) {
        if (arrival.is_over) {
            arrival.thread.join();
        }
        return arrival.is_over;
    });
    if (closed_ || arrivals_.size() >= max_arrivals) {
        return;
    }
    Arrival & arrival = arrivals_.emplace_back();
    arrival.socket.reset(::dup(socket.get()));
    arrival.thread = std::thread(
        [this, &arrival, token, socket = std::move(socket), first = std::move(first), resumes]() mutable {
            auto comer = net::accept_with_token(std::move(socket), first, resumes);
            std::lock_guard when_done(mutex_);
            const UniqueFd connection = std::move(arrival.socket);
            if (!comer && !closed_) {
                log_warning("a connection to link to or resume this session failed: {}",
                            comer.error().text);
            } else if (!closed_) {
                add_connection(token, std::move(*comer), resumes, connection.get());
            }
            arrival.is_over = true;
        });
}

void Peers::close() {
    std::list<Arrival> arrivals;
    {
        std::lock_guard lock(mutex_);
        closed_ = true;
        resumable_.clear();
        for (const Arrival & arrival : arrivals_) {
            ::shutdown(arrival.socket.get(), SHUT_RDWR);  // makes the handshake fail
        }
        arrivals.swap(arrivals_);  // the threads' references stay valid
    }
    for (Arrival & arrival : arrivals) {
        arrival.thread.join();
    }
}

void Peers::when_resumed(std::function<void(uint64_t, UniqueFd)> done) {
    std::lock_guard lock(mutex_);
    when_resumed_ = std::move(done);
}

void Peers::add_connection(uint64_t token, net::TokenConnection comer, bool resumes, int socket) {
    if (comer.resume) {
        const auto known = resumable_.find(token);
        // take_over() refuses attempts that arrive late.
        if (known != resumable_.end() && known->second->take_over(std::move(comer.transport), *comer.resume) && when_resumed_) {
            when_resumed_(token, UniqueFd(::dup(socket)));
        }
        return;
    }
    const auto invited = receivers_.find(token);
    if (invited == receivers_.end() || invited->second != nullptr) {
        return;
    }
    if (resumes) {
        auto resumable = std::make_unique<net::ResumableTransport>(
            std::move(comer.transport),
            net::ResumableTransport::Options{.name = "another server", .grace = grace_, .reconnect = {}});
        resumable_[token] = resumable.get();
        comer.transport = std::move(resumable);
    }
    invited->second = std::make_unique<PeerReceiver>(std::move(comer.transport));
    connected_.notify_all();
}

void Peers::register_resumable(uint64_t token, net::ResumableTransport & transport) {
    std::lock_guard lock(mutex_);
    resumable_[token] = &transport;
}

net::ResumableTransport * Peers::resumable(uint64_t token) {
    std::lock_guard lock(mutex_);
    const auto found = resumable_.find(token);
    return found == resumable_.end() ? nullptr : found->second;
}

PeerReceiver * Peers::receiver(uint64_t token) {
    std::unique_lock lock(mutex_);
    const auto invited = receivers_.find(token);
    if (invited == receivers_.end()) {
        return nullptr;
    }
    connected_.wait_for(lock, connect_wait, [&] { return invited->second != nullptr; });
    return invited->second.get();
}

// Connects to addresses that were checked, not to the name, which could resolve to another address the next time.
Result<std::unique_ptr<net::Transport>> Peers::open_link(const net::Endpoint & endpoint, uint64_t token,
                                                     TimePoint deadline) const {
    const auto addresses = net::addresses_within(endpoint, deadline, lookup_);
    if (!addresses) {
        return std::unexpected(addresses.error());
    }
    Error last{Errc::invalid_argument, formatted("not within --links ({})", links_.text())};
    for (const net::Endpoint & address : *addresses) {
        if (!links_.contains(address.host)) {
            continue;
        }
        auto transport = net::open_link(address, token, deadline);
        if (transport) {
            return transport;
        }
        last = transport.error();
    }
    return std::unexpected(last);
}

Result<std::string> Peers::connect(uint16_t link, uint64_t token, const std::string & text) {
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
    const TimePoint deadline = Clock::now() + connect_time;
    auto transport = open_link(*endpoint, token, deadline);
    if (!transport) {
        log_warning("cannot open the link to {} that the client requested: {}", text, transport.error().text);
        std::this_thread::sleep_until(deadline);
        return fail(Errc::unavailable, "cannot open a link to {}; see the server's log for the reason", text);
    }
    const std::string kind((*transport)->kind());
    log_info("linked with the server at {} over {}", text, kind);
    senders_.emplace(link, std::make_unique<PeerSender>(std::move(*transport), backlog_bytes_));
    return kind;
}

PeerSender * Peers::sender(uint16_t link) {
    const auto found = senders_.find(link);
    return found == senders_.end() ? nullptr : found->second.get();
}

}  // namespace caravan::server
