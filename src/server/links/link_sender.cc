#include "server/links/link_sender.h"

#include <algorithm>
#include <array>

#include "net/inbound.h"
#include "tunables/links.h"
#include "wire/native.h"

namespace caravan::server {

LinkSender::LinkSender(std::unique_ptr<net::Transport> transport, std::atomic<size_t> & backlog, bool shares_memory)
    : transport_(std::move(transport)), all_backlog_bytes_(backlog), shares_memory_(shares_memory) {}

LinkSender::~LinkSender() {
    {
        std::lock_guard lock(mutex_);
        error_ = {Errc::closed, "the sender was closed"};
    }
    changed_.notify_all();
    if (thread_.joinable()) {
        thread_.join();
    }
}

bool LinkSender::has_room() const {
    constexpr size_t most = tunable::max_link_backlog;
    return backlog_bytes_ == 0 || (backlog_bytes_ < most && all_backlog_bytes_ < 2 * most);
}

net::Transport * LinkSender::take_over() {
    return next_ > 0 || std::exchange(is_taken_, true) ? nullptr : transport_.get();
}

Result<> LinkSender::begin(uint64_t size) {
    if (is_taken_) {
        return fail(Errc::invalid_argument, "the link belongs to a group");
    }
    const wire::PushHeader header{next_++, size};
    return send(const_bytes(&header, sizeof header));
}

Result<> LinkSender::send(ConstBytes bytes) {
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
        const ConstBytes piece = bytes.first(std::min(bytes.size(), tunable::link_piece));
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

void LinkSender::work() {
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
        auto sent = net::send_all(*transport_, {bytes}, tunable::link_stall_timeout);
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

}  // namespace caravan::server
