#include "net/opening.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <memory>
#include <optional>
#include <utility>

#include "base/config.h"
#include "base/retry.h"
#include "net/faults.h"
#include "net/handshake.h"
#include "net/inbound.h"
#include "net/resumable.h"

namespace caravan::net {
namespace {

// That of a session changes if it begins anew. Threads: any.
using Token = std::shared_ptr<std::atomic<uint64_t>>;

Result<> begin_records(Connected & opened, TimePoint deadline) {
    const wire::RequestHeader records{wire::command_records, 0};
    return send_all(*opened.transport, {const_bytes(&records, sizeof records)}, deadline - Clock::now());
}

// A connection that is closed so early is not closed for the session's sake.
std::unexpected<Error> early_failure(const Error & error) {
    return fail(error.code == Errc::closed ? Errc::io : error.code, "{}", error.text);
}

// Another session in the place of one that the server does not have, of which nothing is lost.
Result<ResumableTransport::Reopened> begin_anew(const Endpoint & endpoint, std::atomic<uint64_t> & token,
                                                TimePoint deadline) {
    auto opened = shake_hands(endpoint, 0, true, deadline);
    const auto begun = opened ? begin_records(*opened, deadline) : std::unexpected(opened.error());
    if (!begun) {
        return early_failure(begun.error());
    }
    if (!opened->can_resume || opened->token == 0) {
        return fail(Errc::closed, "the server cannot resume sessions any more");
    }
    token = opened->token;
    return ResumableTransport::Reopened{with_faults(std::move(opened->transport)), 0};
}

// TCP, also if it was RDMA that broke: that is the network that has more ways to work.
Result<ResumableTransport::Reopened> resume(const Endpoint & endpoint, uint64_t token, wire::ResumeRequest resume,
                                            TimePoint deadline) {
    auto opened = shake_hands(endpoint, token, transport_mode() == TransportMode::rdma, deadline);
    if (!opened) {
        return early_failure(opened.error());
    }
    std::byte request[sizeof(wire::RequestHeader) + sizeof(wire::ResumeRequest)];
    store(request, wire::RequestHeader{wire::command_resume, sizeof(wire::ResumeRequest)});
    store(request + sizeof(wire::RequestHeader), resume);
    struct {
        uint64_t size = 0;
        wire::ResumeAnswer answer{};
    } answer;
    auto done = send_all(*opened->transport, {request}, deadline - Clock::now());
    done = done ? receive_whole(*opened->transport, mutable_bytes(&answer, sizeof answer), deadline) : done;
    if (!done) {
        return fail(done.error().code, "{}", done.error().code == Errc::closed ? "the server has ended the session"
                                                                                : done.error().text);
    }
    if (answer.size != sizeof answer.answer) {
        return fail(Errc::closed, "the server answers nonsense");
    }
    return ResumableTransport::Reopened{with_faults(std::move(opened->transport)), answer.answer.received};
}

// The process that has opened a session or a link, seen from the server. Kept up by the transport's own thread.
class Lifeline {
public:
    Lifeline(Endpoint endpoint, Token token) : endpoint_(std::move(endpoint)), token_(std::move(token)) {}

    void tend() {
        std::byte nothing;
        const std::array parts{MutableBytes(&nothing, 1)};
        if (transport_ != nullptr && transport_->receive(parts)) {
            return;
        }
        if (transport_ != nullptr && Clock::now() >= made_ + lasting) {
            tries_ = 0;
        }
        transport_.reset();
        if (tries_ == max_tries) {
            return;  // an older server, perhaps
        }
        ++tries_;
        auto opened = shake_hands(endpoint_, *token_, false, Clock::now() + seconds(2));
        const wire::RequestHeader request{wire::command_lifeline, 0};
        if (opened && send_all(*opened->transport, {const_bytes(&request, sizeof request)}, seconds(2))) {
            transport_ = std::move(opened->transport);
            made_ = Clock::now();
        }
    }

private:
    static constexpr int max_tries = 20;
    static constexpr seconds lasting{10};
    const Endpoint endpoint_;
    const Token token_;
    std::unique_ptr<Transport> transport_;
    TimePoint made_{};
    int tries_ = 0;  // since one lasted
};

std::unique_ptr<Transport> make_resumable(Connected & opened, const Endpoint & endpoint, const Token & token,
                                          ResumableTransport::Reopen reopen) {
    auto line = std::make_shared<Lifeline>(endpoint, token);
    line->tend();  // before the first use, however soon this process is killed
    return std::make_unique<ResumableTransport>(
        std::move(opened.transport),
        ResumableTransport::Options{.name = "RPC server " + endpoint.text(),
                                    .grace = reconnect_time(),
                                    .reopen = std::move(reopen),
                                    .tend = [line] { line->tend(); }});
}

std::unique_ptr<Transport> make_session(Connected & opened, const Endpoint & endpoint) {
    constexpr int max_beginnings = 8;
    auto token = std::make_shared<std::atomic<uint64_t>>(opened.token);
    const auto reopen = [endpoint, token, beginnings = 1, gone = std::optional<Error>()](
                            const ResumableTransport::Attempt & attempt) mutable -> Result<ResumableTransport::Reopened> {
        if (!gone) {
            auto again = resume(endpoint, *token, attempt.request, attempt.deadline);
            if (again || again.error().code != Errc::closed) {
                return again;
            }
            gone = again.error();  // and stays so: no need to ask for this one again
        }
        // The server may have heard nothing of the session before its first connection broke. Or the first command was
        // its end, and would be again.
        if (!attempt.may_begin_anew || ++beginnings > max_beginnings) {
            return std::unexpected(*gone);
        }
        auto anew = begin_anew(endpoint, *token, attempt.deadline);
        if (anew) {
            gone.reset();
        }
        return anew;
    };
    return make_resumable(opened, endpoint, token, reopen);
}

std::unique_ptr<Transport> make_link(Connected & opened, const Endpoint & endpoint, uint64_t token) {
    return make_resumable(opened, endpoint, std::make_shared<std::atomic<uint64_t>>(token),
                          [endpoint, token](const ResumableTransport::Attempt & attempt) {
                              return resume(endpoint, token, attempt.request, attempt.deadline);
                          });
}

Result<std::unique_ptr<Transport>> try_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline) {
    auto opened = shake_hands(endpoint, token, true, deadline);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    if (!opened->peer_is_native) {
        return fail(Errc::unsupported, "{} is a stock server, or an older one", endpoint.text());
    }
    const wire::RequestHeader request{wire::command_link, 0};
    auto done = send_all(*opened->transport, {const_bytes(&request, sizeof request)}, deadline - Clock::now());
    std::array<std::byte, link_answer.size()> answer{};
    done = done ? receive_whole(*opened->transport, answer, deadline) : done;
    if (!done) {
        return fail(done.error().code, "{} did not accept the link: {}", endpoint.text(), done.error().text);
    }
    if (answer != link_answer) {
        return fail(Errc::protocol, "{} refused the link", endpoint.text());
    }
    opened->transport = with_faults(std::move(opened->transport));
    return opened->can_resume ? make_link(*opened, endpoint, token) : std::move(opened->transport);
}

}  // namespace

Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline, const Queueing & queueing) {
    const auto patience = deadline - Clock::now();
    return retry_after_reset([&]() -> Result<Opened> {
        auto opened = shake_hands(endpoint, 0, for_session, deadline, for_session ? &queueing : nullptr);
        if (!opened) {
            return std::unexpected(opened.error());
        }
        if (!for_session) {
            return std::move(*opened);
        }
        deadline = Clock::now() + patience;  // the queue may have taken long
        const bool is_resumable = opened->can_resume && opened->token != 0;
        if (const auto begun = is_resumable ? begin_records(*opened, deadline) : Result<>(); !begun) {
            return std::unexpected(begun.error());
        }
        opened->transport = with_faults(std::move(opened->transport));
        if (is_resumable) {
            opened->transport = make_session(*opened, endpoint);
        }
        return std::move(*opened);
    });
}

Result<std::unique_ptr<Transport>> open_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline) {
    return retry_after_reset([&] { return try_link(endpoint, token, deadline); });
}

}  // namespace caravan::net
