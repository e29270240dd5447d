#include <array>
#include <atomic>
#include <mutex>
#include <thread>

#include "net/socket.h"
#include "net/transport.h"
#include "platform/poll.h"
#include "platform/waker.h"
#include "tunables/net.h"

namespace caravan::net {
namespace {

using platform::Moved;
using platform::Waker;

static_assert(max_parts == platform::max_io_parts);

std::unexpected<Error> failed(const Moved & moved, const char * what) {
    if (moved.status == Moved::Status::silent) {  // keep-alive
        return fail(Errc::timed_out, "the network has been silent for too long");
    }
    return fail(Errc::io, "{} failed: {}", what, moved.why());
}

class SocketTransport final : public Transport {
public:
    SocketTransport(UniqueFd socket, bool is_unix, milliseconds patience)
        : socket_(std::move(socket)), is_unix_(is_unix), patience_(patience) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        const Moved sent = platform::send_parts(socket_.get(), parts);
        switch (sent.status) {
            case Moved::Status::some:
            case Moved::Status::closed:  // no byte was to be sent
            case Moved::Status::would_block: return sent.bytes;
            case Moved::Status::reset: return fail(Errc::reset, "the peer closed the connection");
            default: return failed(sent, "send");
        }
    }

    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        const Moved got = platform::receive_parts(socket_.get(), parts);
        switch (got.status) {
            case Moved::Status::some:
            case Moved::Status::would_block: return got.bytes;
            case Moved::Status::closed: return fail(Errc::closed, "the peer closed the connection");
            case Moved::Status::reset: return fail(Errc::reset, "the peer reset the connection");
            default: return failed(got, "receive");
        }
    }

    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override {
        const Result<Waker> & waker = this->waker();
        if (!waker) {
            return std::unexpected(waker.error());
        }
        const auto wanted = static_cast<short>((interest.read ? platform::readable : 0) |
                                               (interest.write ? platform::writable : 0));
        std::array<platform::Watch, 2> watches{{{socket_.get(), wanted, 0}, {waker->fd(), platform::readable, 0}}};
        const TimePoint spin_end = spin.count() > 0 ? Clock::now() + spin : TimePoint::min();
        for (;;) {
            const bool spinning = spin.count() > 0 && Clock::now() < spin_end;
            const TimePoint until = std::min(deadline, next_check_.load());
            const auto ready = platform::poll(watches, spinning ? 0 : poll_timeout_ms(until));
            if (!ready) {
                return std::unexpected(ready.error());
            }
            if (*ready > 0) {
                break;
            }
            const TimePoint now = Clock::now();
            if (now >= next_check_.load()) {
                if (auto alive = check_silence(now); !alive) {
                    return std::unexpected(alive.error());
                }
            }
            if (now >= deadline) {
                return false;
            }
            if (spinning && now < spin_end) {
                std::this_thread::yield();
            }
        }
        if (watches[1].revents != 0) {
            waker->clear();
        }
        return true;
    }

    void wake() override {
        if (const Result<Waker> & waker = this->waker()) {
            waker->wake();
        }
    }

    void break_off() override { platform::reset_connection(socket_.get()); }

    TransportKind kind() const override { return is_unix_ ? TransportKind::unix_socket : TransportKind::tcp; }

private:
    // Created by the first wait or wake. A lifeline needs none.
    const Result<Waker> & waker() {
        std::call_once(waker_created_, [this] { waker_ = Waker::make(); });
        return waker_;
    }

    // Called at intervals while a wait sleeps. Fails if the network is silent. The silence counts from the first check that
    // finds an acknowledgement pending: on an idle connection the last one may be old.
    Result<> check_silence(TimePoint now) {
        next_check_ = now + patience_ / tunable::silence_checks;
        const platform::AckState acks = platform::ack_state_of(socket_.get());
        if (!acks.is_pending) {
            silent_since_ = no_deadline;
        } else if (now - acks.age > silent_since_.load() || silent_since_.load() == no_deadline) {
            silent_since_ = now;
        } else if (acks.is_retransmitted && now - silent_since_.load() >= patience_) {
            return fail(Errc::timed_out, "the network has been silent for {} s",
                        std::chrono::floor<seconds>(acks.age).count());
        }
        return {};
    }

    UniqueFd socket_;
    std::once_flag waker_created_;
    Result<Waker> waker_ = fail(Errc::io, "not created yet");
    bool is_unix_;
    const milliseconds patience_;
    // Shared by all threads that wait. no_deadline: do not check; not silent.
    std::atomic<TimePoint> next_check_{patience_.count() > 0 ? TimePoint{} : no_deadline};
    std::atomic<TimePoint> silent_since_{no_deadline};
};

}  // namespace

Result<std::unique_ptr<Transport>> make_socket_transport(UniqueFd socket, milliseconds patience) {
    const bool is_unix = is_unix_socket(socket.get());
    if (is_unix) {
        patience = milliseconds(0);
    } else if (patience.count() > 0) {
        keep_alive(socket.get(), std::chrono::ceil<seconds>(patience));
    }
    return std::make_unique<SocketTransport>(std::move(socket), is_unix, patience);
}

}  // namespace caravan::net
