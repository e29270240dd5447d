#include "net/opening.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "base/config.h"
#include "base/retry.h"
#include "net/client_handshake.h"
#include "net/faults.h"
#include "net/hello.h"
#include "net/inbound.h"
#include "net/resume/resumable_transport.h"
#include "net/server_handshake.h"
#include "tunables/resume.h"
#include "wire/frame.h"

namespace caravan::net {
namespace {

// A session's token changes if the session is restarted. Threads: any.
using Token = std::shared_ptr<std::atomic<uint64_t>>;

Result<> start_records(Connected & opened, TimePoint deadline) {
    return send_all(*opened.transport, {wire::frame_header(wire::command_records)}, deadline - Clock::now());
}

// A connection that is closed during the handshake says nothing about the session: do not report Errc::closed.
std::unexpected<Error> early_failure(const Error & error) {
    return fail(error.code == Errc::closed ? Errc::io : error.code, "{}", error.text);
}

// Starts a new session in place of one that the server does not know. The caller still has the whole stream.
Result<ResumableTransport::Reconnected> restart_session(const Endpoint & endpoint, std::atomic<uint64_t> & token,
                                                        TimePoint deadline) {
    auto opened = shake_hands(endpoint, 0, RdmaUse::preferred, deadline);
    const auto started = opened ? start_records(*opened, deadline) : std::unexpected(opened.error());
    if (!started) {
        return early_failure(started.error());
    }
    if (!opened->can_resume || opened->token == 0) {
        return fail(Errc::closed, "the server no longer supports resuming");
    }
    token = opened->token;
    return ResumableTransport::Reconnected{with_faults(std::move(opened->transport)), 0};
}

// Sends RESUME over `transport`. Errc::closed: the server has ended the session.
Result<ResumableTransport::Reconnected> resume_over(std::unique_ptr<Transport> transport, wire::ResumeRequest resume,
                                                    TimePoint deadline) {
    struct {
        uint64_t size = 0;
        wire::ResumeReply reply{};
    } reply;
    auto done = send_all(*transport, {wire::frame(wire::command_resume, resume)}, deadline - Clock::now());
    done = done ? receive_whole(*transport, mutable_bytes(&reply, sizeof reply), deadline) : done;
    if (!done) {
        return fail(done.error().code, "{}", done.error().code == Errc::closed ? "the server has ended the session"
                                                                                : done.error().text);
    }
    if (reply.size != sizeof reply.reply) {
        return fail(Errc::closed, "malformed reply to RESUME");
    }
    return ResumableTransport::Reconnected{with_faults(std::move(transport)), reply.reply.received};
}

// Reconnects over TCP even after a failure of RDMA, because TCP works on more network paths, unless an end accepts only RDMA.
Result<ResumableTransport::Reconnected> resume(const Endpoint & endpoint, uint64_t token,
                                               ResumableTransport::Attempt & attempt) {
    if (attempt.over != nullptr) {
        auto resumed = resume_over(std::move(attempt.over), attempt.request, attempt.deadline);
        return resumed ? std::move(resumed) : early_failure(resumed.error());  // the next attempt finds out about the session
    }
    const RdmaUse use = transport_mode() == TransportMode::rdma ? RdmaUse::required : RdmaUse::avoided;
    auto opened = shake_hands(endpoint, token, use, attempt.deadline);
    if (!opened) {
        opened.error().text = without_endpoint(endpoint, opened.error().text);
        return early_failure(opened.error());
    }
    return resume_over(std::move(opened->transport), attempt.request, attempt.deadline);
}

// For sessions and links that lost RDMA. Without an RDMA device that fits, the server sees only a connection that closes.
ResumableTransport::OpenRdma rdma_opener(const Endpoint & endpoint, const Token & token) {
    if (!built_with_rdma || transport_mode() != TransportMode::automatic) {
        return {};
    }
    return [endpoint, token](TimePoint deadline, const std::stop_token & stop) -> Result<std::unique_ptr<Transport>> {
        auto opened = shake_hands(endpoint, *token, RdmaUse::required, deadline, nullptr, stop);
        if (!opened) {
            return std::unexpected(opened.error());
        }
        return std::move(opened->transport);
    };
}

// For sessions and links that began over TCP.
ResumableTransport::OpenRdma first_rdma_opener(const Endpoint & endpoint, const Token & token) {
    return [endpoint, token](TimePoint deadline, const std::stop_token & stop) -> Result<std::unique_ptr<Transport>> {
        auto opened = shake_hands(endpoint, *token, RdmaUse::preferred, deadline, nullptr, stop);
        if (!opened) {
            return std::unexpected(opened.error());
        }
        if (opened->transport->kind() != TransportKind::rdma) {
            return fail(Errc::unavailable, opened->why_not_rdma.reason, "{}", opened->why_not_rdma.text);
        }
        return std::move(opened->transport);
    };
}

// A second connection that tells the server that this process is alive. The transport's own thread maintains it.
class Lifeline {
public:
    Lifeline(Endpoint endpoint, Token token) : endpoint_(std::move(endpoint)), token_(std::move(token)) {}

    // Checks the connection and replaces it if it is lost.
    void maintain() {
        std::byte nothing;
        const std::array parts{MutableBytes(&nothing, 1)};
        if (transport_ != nullptr && transport_->receive(parts)) {
            return;
        }
        if (transport_ != nullptr && Clock::now() >= connected_at_ + tunable::min_lifeline_lifetime) {
            tries_ = 0;
        }
        transport_.reset();
        if (tries_ == tunable::max_lifeline_tries) {
            return;  // perhaps an older server without lifelines
        }
        ++tries_;
        auto opened = shake_hands(endpoint_, *token_, RdmaUse::none, Clock::now() + seconds(2));
        if (opened && send_all(*opened->transport, {wire::frame_header(wire::command_lifeline)}, seconds(2))) {
            transport_ = std::move(opened->transport);
            connected_at_ = Clock::now();
        }
    }

private:
    const Endpoint endpoint_;
    const Token token_;
    std::unique_ptr<Transport> transport_;
    TimePoint connected_at_{};
    int tries_ = 0;  // since a connection reached tunable::min_lifeline_lifetime
};

std::unique_ptr<Transport> make_resumable(Connected & opened, const Endpoint & endpoint, const Token & token,
                                          ResumableTransport::Reconnect reconnect, const Pace & pace = {}) {
    auto line = std::make_shared<Lifeline>(endpoint, token);
    line->maintain();  // before the session is used: this process may be killed at any time
    return std::make_unique<ResumableTransport>(
        std::move(opened.transport),
        ResumableTransport::Options{.name = "RPC server " + endpoint.text(),
                                    .grace = reconnect_time(),
                                    .reconnect = std::move(reconnect),
                                    .open_rdma = rdma_opener(endpoint, token),
                                    .open_first_rdma = opened.may_upgrade ? first_rdma_opener(endpoint, token)
                                                                          : ResumableTransport::OpenRdma(),
                                    .while_connected = [line] { line->maintain(); },
                                    .pace = pace});
}

std::unique_ptr<Transport> make_session(Connected & opened, const Endpoint & endpoint, const Pace & pace) {
    auto token = std::make_shared<std::atomic<uint64_t>>(opened.token);
    const auto reconnect = [endpoint, token, starts = 1, gone = std::optional<Error>()](
                               ResumableTransport::Attempt attempt) mutable -> Result<ResumableTransport::Reconnected> {
        if (!gone) {
            auto again = resume(endpoint, *token, attempt);
            if (again || again.error().code != Errc::closed) {
                return again;
            }
            gone = again.error();  // permanent: do not query the server for this session again
        }
        // The first connection may have been lost before the server received anything. Or the first command ended the
        // session, and would do it again: hence the limit.
        if (!attempt.may_restart || ++starts > tunable::max_session_starts) {
            return std::unexpected(*gone);
        }
        auto restarted = restart_session(endpoint, *token, attempt.deadline);
        if (restarted) {
            gone.reset();
        }
        return restarted;
    };
    return make_resumable(opened, endpoint, token, reconnect, pace);
}

std::unique_ptr<Transport> make_link(Connected & opened, const Endpoint & endpoint, uint64_t token) {
    return make_resumable(opened, endpoint, std::make_shared<std::atomic<uint64_t>>(token),
                          [endpoint, token](ResumableTransport::Attempt attempt) { return resume(endpoint, token, attempt); });
}

Result<OpenedLink> try_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline) {
    auto opened = shake_hands(endpoint, token, RdmaUse::deferred, deadline);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    if (!opened->peer_is_native) {
        return fail(Errc::unsupported, "{} does not support links: it is a stock server or an older version", endpoint.text());
    }
    auto done = send_all(*opened->transport, {wire::frame_header(wire::command_link)}, deadline - Clock::now());
    std::array<std::byte, link_reply.size()> reply{};
    done = done ? receive_whole(*opened->transport, reply, deadline) : done;
    if (!done) {
        return fail(done.error().code, "{} did not accept the link: {}", endpoint.text(),
                    done.error().code == Errc::closed ? "its session has ended, or the token is wrong or in use"
                                                      : done.error().text);
    }
    if (reply != link_reply) {
        return fail(Errc::protocol, "{} refused the link", endpoint.text());
    }
    opened->transport = with_faults(std::move(opened->transport));
    const bool shares_memory = opened->shares_memory;
    return OpenedLink{opened->can_resume ? make_link(*opened, endpoint, token) : std::move(opened->transport), shares_memory};
}

}  // namespace

Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline, const Queueing & queueing,
                           const Pace & pace, bool defer_rdma) {
    const RdmaUse use = !for_session ? RdmaUse::none : defer_rdma ? RdmaUse::deferred : RdmaUse::preferred;
    const auto patience = deadline - Clock::now();
    return retry_after_reset([&]() -> Result<Opened> {
        auto opened = shake_hands(endpoint, 0, use, deadline, for_session ? &queueing : nullptr);
        if (!opened) {
            return std::unexpected(opened.error());
        }
        if (!for_session) {
            return std::move(*opened);
        }
        deadline = Clock::now() + patience;  // the wait in the queue does not count
        const bool is_resumable = opened->can_resume && opened->token != 0;
        if (const auto started = is_resumable ? start_records(*opened, deadline) : Result<>(); !started) {
            return std::unexpected(started.error());
        }
        opened->transport = with_faults(std::move(opened->transport));
        if (is_resumable) {
            opened->transport = make_session(*opened, endpoint, pace);
        }
        return std::move(*opened);
    });
}

Result<OpenedLink> open_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline, milliseconds rdma_wait) {
    auto link = retry_after_reset([&] { return try_link(endpoint, token, deadline); });
    if (link && link->transport->kind() != TransportKind::rdma) {
        link->transport->begin_upgrade([](const Error *) {});
        link->transport->await_upgrade(Clock::now() + rdma_wait);
    }
    return link;
}

}  // namespace caravan::net
