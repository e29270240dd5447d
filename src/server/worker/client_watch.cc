#include "server/worker/client_watch.h"

#include <algorithm>

#include "platform/poll.h"

namespace caravan::server {

using platform::broken, platform::broken_or_closed, platform::hung_up, platform::readable;

Result<std::unique_ptr<ClientWatch>> ClientWatch::start(UniqueFd client, int control, uint64_t token, ResumptionTable & streams,
                                                        Handlers handlers, milliseconds farewell) {
    auto stop = platform::Waker::make(), resumed = platform::Waker::make();
    if (!stop || !resumed) {
        return std::unexpected(stop ? resumed.error() : stop.error());
    }
    return std::unique_ptr<ClientWatch>(new ClientWatch(std::move(client), control, token, streams, std::move(handlers),
                                                        farewell, std::move(*stop), std::move(*resumed)));
}

ClientWatch::ClientWatch(UniqueFd client, int control, uint64_t token, ResumptionTable & streams, Handlers handlers,
                         milliseconds farewell, platform::Waker stop, platform::Waker resumed)
    : client_(std::move(client)),
      control_(control),
      token_(token),
      streams_(streams),
      handlers_(std::move(handlers)),
      farewell_(farewell),
      stop_(std::move(stop)),
      resumed_(std::move(resumed)) {
    streams_.when_resumed([this](uint64_t token_of_stream, UniqueFd connection) {
        if (token_of_stream == token_) {
            std::lock_guard lock(mutex_);
            next_client_ = std::move(connection);
            resumed_.wake();
        }
    });
    thread_ = std::thread([this] { watch(); });
}

ClientWatch::~ClientWatch() {
    streams_.when_resumed({});
    stop_.wake();
    thread_.join();
}

void ClientWatch::watch() {
    for (std::vector<platform::Watch> fds;;) {
        fds = {{client_.get(), hung_up, 0}, {control_, readable, 0}, {stop_.fd(), readable, 0}, {resumed_.fd(), readable, 0}};
        const size_t others = fds.size();
        for (const Lifeline & lifeline : lifelines_) {
            fds.push_back({lifeline.socket.get(), hung_up, 0});
        }
        if (platform::poll(fds, -1).value_or(0) == 0) {
            continue;
        }
        if (fds[2].revents != 0) {
            return;
        }
        if (fds[1].revents != 0) {
            handlers_.on_supervisor(*this);
            continue;  // lifelines_ may have changed
        }
        if (fds[3].revents != 0) {
            take_resumed_connection();
            continue;
        }
        for (size_t i = lifelines_.size(); i-- > 0;) {
            if (fds[others + i].revents != 0) {
                lifeline_ended(i, fds[others + i].revents);
            }
        }
        if (has_left(fds[0].revents)) {
            end_session();
            return;
        }
    }
}

void ClientWatch::take_resumed_connection() {
    resumed_.clear();
    std::lock_guard lock(mutex_);
    if (next_client_) {
        client_ = std::move(next_client_);
    }
}

// `events`: of the client's connection. Stops watching the connection if it is broken and the session may be resumed.
bool ClientWatch::has_left(short events) {
    if (has_exited_ && !client_) {
        return true;  // its connection had already broken
    }
    if (events == 0) {
        return false;
    }
    const bool is_broken = (events & broken_or_closed) != 0 || std::ranges::contains(lifelines_, token_, &Lifeline::token);
    if (token_ != 0 && !has_exited_ && is_broken) {
        client_.reset();
        return false;
    }
    return true;
}

void ClientWatch::end_session() {
    handlers_.on_left();
    const TimePoint end = Clock::now() + farewell_;
    platform::Watch stop{stop_.fd(), readable, 0};
    while (stop.revents == 0 && Clock::now() < end && platform::poll({&stop, 1}, poll_timeout_ms(end))) {
    }
    if (stop.revents == 0) {
        handlers_.on_overdue();
    }
}

// If the session or link does not exist yet, the peer opens the lifeline again.
void ClientWatch::add_lifeline(uint64_t token, UniqueFd socket) {
    if (streams_.watch_peer(token)) {
        std::erase_if(lifelines_, [&](const Lifeline & other) { return other.token == token; });
        lifelines_.push_back({token, std::move(socket)});
    }
}

// A Unix socket hangs up in both directions when its peer closes it. A broken connection has an error, which no other thread
// reads from this socket.
void ClientWatch::lifeline_ended(size_t index, short events) {
    const uint64_t token = lifelines_[index].token;
    const bool has_exited = (events & broken) == 0;
    lifelines_.erase(lifelines_.begin() + static_cast<ptrdiff_t>(index));
    streams_.lifeline_ended(token, has_exited);
    has_exited_ = has_exited_ || (has_exited && token == token_);
}

}  // namespace caravan::server
