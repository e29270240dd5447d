#include "net/handshake.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <cstdlib>
#include <string_view>

#include "base/config.h"
#include "base/log.h"
#include "base/retry.h"
#include "net/exact_io.h"
#include "net/faults.h"
#include "net/inbound.h"
#include "net/resumable.h"
#include "net/socket.h"
#ifdef GGML_RPC_RDMA
#include "net/rdma/upgrade.h"
#endif

namespace caravan::net {
namespace {

constexpr std::array link_answer{std::byte{1}, std::byte{0}, std::byte{0}, std::byte{0}, std::byte{0},
                                 std::byte{0}, std::byte{0}, std::byte{0}, std::byte{1}};  // u64 1, u8 1

// GGML_RPC_DIALECT=stock is for comparisons and for finding faults.
bool dialect_is_native() {
    static const bool native = [] {
        const char * value = std::getenv("GGML_RPC_DIALECT");
        return value == nullptr || std::string_view(value) != "stock";
    }();
    return native;
}

Result<wire::HelloAnswer> shake_hands(int socket, uint64_t token, TimePoint deadline) {
    std::byte request[sizeof(wire::RequestHeader) + sizeof(wire::HelloRequest)];
    store(request, wire::RequestHeader{wire::Command::hello, sizeof(wire::HelloRequest)});
    wire::Extension extension = own_extension();
    extension.token = token;
    store(request + sizeof(wire::RequestHeader), extension);
    auto done = send_exact(socket, request, deadline);
    uint64_t size = 0;
    wire::HelloAnswer answer{};
    done = done ? receive_exact(socket, mutable_bytes(&size, sizeof size), deadline) : done;
    if (done && size != sizeof answer) {
        done = fail(Errc::protocol, "an answer of {} bytes", size);
    }
    done = done ? receive_exact(socket, mutable_bytes(&answer, sizeof answer), deadline) : done;
    if (!done) {
        return fail(done.error().code, "no RPC handshake: {}", done.error().text);
    }
    if (answer.major != wire::stock_major || answer.minor > wire::stock_minor) {
        return fail(Errc::unsupported,
                    "the server speaks RPC protocol {}.{}.{}, this client {}.{}: run matching versions", answer.major,
                    answer.minor, answer.patch, wire::stock_major, wire::stock_minor);
    }
    return answer;
}

// The reason why RDMA is not even tried, or nothing.
std::string reason_not_to_try(const wire::Extension & peer) {
    if (!has_rdma) {
        return "this client was built without RDMA";
    }
    if (!peer.is_caravan()) {
        return "the server is a stock one";
    }
    if ((peer.features & wire::feature_rdma) == 0) {
        return "the server has no RDMA";
    }
    return "";
}

}  // namespace

TransportWish transport_wish() {
    static const TransportWish wish = [] {
        const char * value = std::getenv("GGML_RPC_TRANSPORT");
        const std::string_view text = value == nullptr ? "" : value;
        if (text == "tcp") {
            return TransportWish::tcp;
        }
        if (text == "rdma") {
            return TransportWish::rdma;
        }
        if (!text.empty() && text != "auto") {
            log_warning("GGML_RPC_TRANSPORT=\"{}\" is neither auto, tcp nor rdma: using auto", text);
        }
        return TransportWish::automatic;
    }();
    return wish;
}

wire::Extension own_extension() {
    wire::Extension extension;
    extension.features = dialect_is_native() ? wire::feature_native : 0;
    if (reconnect_time().count() > 0) {
        extension.features |= wire::feature_resume;
    }
    if (has_rdma && transport_wish() != TransportWish::tcp) {
        extension.features |= wire::feature_rdma;
    }
    return extension;
}

namespace {

// A session that cannot be resumed is not given up for a network that may come back.
seconds patience_if(bool can_resume) { return can_resume ? network_patience : seconds(0); }

struct Connected : Opened {
    uint64_t token = 0;       // that the server gave
    bool can_resume = false;  // the server, and so can we
};

Result<Connected> open(const Endpoint & endpoint, uint64_t token, bool may_be_rdma, TimePoint deadline);

#ifdef GGML_RPC_RDMA
// RDMA, or TCP if that is what both sides know. After an answer that did not come in time it is another connection's
// turn, without RDMA.
Result<Connected> upgrade(Connected opened, UniqueFd & socket, const Endpoint & endpoint, uint64_t token,
                          TimePoint deadline) {
    auto upgraded = rdma::offer(socket, Clock::now() + (deadline - Clock::now()) / 2);
    if (upgraded) {
        opened.transport = std::move(upgraded->transport);
        opened.why_not_rdma = std::move(upgraded->why_not);
        return opened;
    }
    if (upgraded.error().code == Errc::reset || transport_wish() == TransportWish::rdma) {
        return std::unexpected(upgraded.error());
    }
    socket.reset();
    auto again = open(endpoint, token, false, deadline);
    if (again) {
        again->why_not_rdma = upgraded.error().text;
    }
    return again;
}
#endif

Result<Connected> open(const Endpoint & endpoint, uint64_t token, bool may_be_rdma, TimePoint deadline) {
    auto socket = connect_socket(endpoint, deadline);
    if (!socket) {
        return std::unexpected(socket.error());
    }
    const auto answer = shake_hands(socket->get(), token, deadline);
    if (!answer) {
        return fail(answer.error().code, "{}: {}", endpoint.text(), answer.error().text);
    }
    const auto peer = load<wire::Extension>(answer->capabilities);
    Connected opened;
    opened.peer_is_caravan = peer.is_caravan();
    opened.peer_is_native = peer.is_caravan() && dialect_is_native() && (peer.features & wire::feature_native) != 0;
    opened.token = peer.token;
    opened.can_resume = peer.is_caravan() && (peer.features & own_extension().features & wire::feature_resume) != 0;
    if (may_be_rdma && transport_wish() != TransportWish::tcp) {
        opened.why_not_rdma = reason_not_to_try(peer);
#ifdef GGML_RPC_RDMA
        if (opened.why_not_rdma.empty()) {
            auto upgraded = upgrade(std::move(opened), *socket, endpoint, token, deadline);
            if (!upgraded || upgraded->transport != nullptr) {
                return upgraded;
            }
            opened = std::move(*upgraded);
        }
#endif
        if (transport_wish() == TransportWish::rdma) {
            return fail(Errc::unavailable, "{}: no RDMA, which GGML_RPC_TRANSPORT=rdma asks for: {}", endpoint.text(),
                        opened.why_not_rdma);
        }
    }
    auto transport = make_socket_transport(std::move(*socket), patience_if(opened.can_resume));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    opened.transport = std::move(*transport);
    return opened;
}

Result<> receive_whole(Transport & transport, MutableBytes bytes, TimePoint deadline) {
    while (!bytes.empty()) {
        const std::array parts{bytes};
        const auto got = transport.receive(parts);
        if (!got) {
            return std::unexpected(got.error());
        }
        bytes = bytes.subspan(*got);
        if (*got == 0) {
            const auto ready = transport.wait({.read = true}, deadline, microseconds{0});
            if (!ready) {
                return std::unexpected(ready.error());
            }
            if (Clock::now() >= deadline) {
                return fail(Errc::timed_out, "no answer in time");
            }
        }
    }
    return {};
}

// The session's token, which changes if the session begins anew. Threads: any.
using SessionToken = std::shared_ptr<std::atomic<uint64_t>>;

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
    auto opened = open(endpoint, 0, true, deadline);
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
    auto opened = open(endpoint, token, transport_wish() == TransportWish::rdma, deadline);
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

// The client's process, seen from the server. Kept up by the session's own thread.
class Lifeline {
public:
    Lifeline(Endpoint endpoint, SessionToken token) : endpoint_(std::move(endpoint)), token_(std::move(token)) {}

    void tend() {
        std::byte nothing;
        const std::array parts{MutableBytes(&nothing, 1)};
        if (transport_ != nullptr && transport_->receive(parts)) {
            return;
        }
        transport_.reset();
        if (tries_ == max_tries) {
            return;  // an older server, perhaps
        }
        ++tries_;
        auto opened = open(endpoint_, *token_, false, Clock::now() + seconds(2));
        const wire::RequestHeader request{wire::command_lifeline, 0};
        if (opened && send_all(*opened->transport, {const_bytes(&request, sizeof request)}, seconds(2))) {
            transport_ = std::move(opened->transport);
        }
    }

private:
    static constexpr int max_tries = 20;
    const Endpoint endpoint_;
    const SessionToken token_;
    std::unique_ptr<Transport> transport_;
    int tries_ = 0;
};

std::unique_ptr<Transport> make_resumable(Connected & opened, const Endpoint & endpoint,
                                          ResumableTransport::Reopen reopen, std::function<void()> tend) {
    return std::make_unique<ResumableTransport>(std::move(opened.transport),
                                                ResumableTransport::Options{.name = "RPC server " + endpoint.text(),
                                                                            .grace = reconnect_time(),
                                                                            .reopen = std::move(reopen),
                                                                            .tend = std::move(tend)});
}

std::unique_ptr<Transport> make_session(Connected & opened, const Endpoint & endpoint) {
    constexpr int max_beginnings = 8;
    auto token = std::make_shared<std::atomic<uint64_t>>(opened.token);
    const auto reopen = [endpoint, token, beginnings = 1](const ResumableTransport::Attempt & attempt) mutable {
        auto again = resume(endpoint, *token, attempt.request, attempt.deadline);
        // The server may have heard nothing of the session before its first connection broke. Or the first command was its
        // end, and would be again.
        const bool is_gone = !again && again.error().code == Errc::closed;
        return is_gone && attempt.may_begin_anew && ++beginnings <= max_beginnings
                   ? begin_anew(endpoint, *token, attempt.deadline)
                   : std::move(again);
    };
    return make_resumable(opened, endpoint, reopen,
                          [lifeline = std::make_shared<Lifeline>(endpoint, token)] { lifeline->tend(); });
}

std::unique_ptr<Transport> make_link(Connected & opened, const Endpoint & endpoint, uint64_t token) {
    return make_resumable(
        opened, endpoint,
        [endpoint, token](const ResumableTransport::Attempt & attempt) {
            return resume(endpoint, token, attempt.request, attempt.deadline);
        },
        {});
}

}  // namespace

Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline) {
    return despite_resets([&]() -> Result<Opened> {
        auto opened = open(endpoint, 0, for_session, deadline);
        if (!opened) {
            return std::unexpected(opened.error());
        }
        if (!for_session) {
            return std::move(*opened);
        }
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

namespace {

Result<Accepted> accept_transport(UniqueFd socket, ConstBytes first, bool can_resume) {
    Accepted accepted;
#ifdef GGML_RPC_RDMA
    const auto header = first.size() == sizeof(wire::RequestHeader) ? load<wire::RequestHeader>(first.data())
                                                                    : wire::RequestHeader{};
    const bool is_offer = header.command == wire::command_rdma_offer && header.size == sizeof(wire::RdmaOffer);
    if (is_offer && transport_wish() != TransportWish::tcp) {
        wire::RdmaOffer offer{};
        if (auto got = receive_exact(socket.get(), mutable_bytes(&offer, sizeof offer), Clock::now() + seconds(10)); !got) {
            return std::unexpected(got.error());
        }
        accepted.first_is_used = true;
        auto upgraded = rdma::answer(socket, offer);
        if (!upgraded) {
            return std::unexpected(upgraded.error());
        }
        if (upgraded->transport != nullptr) {
            accepted.transport = std::move(upgraded->transport);
            return accepted;
        }
        log_info("RDMA not activated: {}; the session goes on over TCP", upgraded->why_not);
    }
#else
    (void)first;
#endif
    if (has_rdma && transport_wish() == TransportWish::rdma) {
        return fail(Errc::unavailable, "the session has no RDMA, which GGML_RPC_TRANSPORT=rdma asks for");
    }
    auto transport = make_socket_transport(std::move(socket), patience_if(can_resume));
    if (!transport) {
        return std::unexpected(transport.error());
    }
    accepted.transport = std::move(*transport);
    return accepted;
}

}  // namespace

Result<Accepted> open_server(UniqueFd socket, ConstBytes first, bool can_resume) {
    auto accepted = accept_transport(std::move(socket), first, can_resume);
    if (!accepted) {
        return accepted;
    }
    accepted->transport = with_faults(std::move(accepted->transport));
    if (!can_resume) {
        return accepted;
    }
    wire::RequestHeader header{};
    if (accepted->first_is_used) {
        if (auto got = receive_whole(*accepted->transport, mutable_bytes(&header, sizeof header),
                                     Clock::now() + seconds(10));
            !got) {
            return std::unexpected(got.error());
        }
        if (header.command != wire::command_records) {
            return fail(Errc::protocol, "a session that does not begin with RECORDS");
        }
    } else if (first.size() == sizeof header) {
        header = load<wire::RequestHeader>(first.data());
    }
    accepted->in_records = header.command == wire::command_records;
    accepted->first_is_used = accepted->first_is_used || accepted->in_records;
    return accepted;
}

// Nothing but the link's command and its answer has been sent when these return, so reading ahead loses nothing.

namespace {

Result<std::unique_ptr<Transport>> try_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline) {
    auto opened = open(endpoint, token, true, deadline);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    if (!opened->peer_is_native) {
        return fail(Errc::unsupported, "{} is a stock server, or an older one", endpoint.text());
    }
    Inbound in(*opened->transport, {}, deadline - Clock::now(), microseconds{0});
    const wire::RequestHeader request{wire::command_link, 0};
    auto done = send_all(*opened->transport, {const_bytes(&request, sizeof request)}, deadline - Clock::now());
    const auto answer = done ? in.peek(link_answer.size()) : std::unexpected(done.error());
    if (!answer) {
        return fail(answer.error().code, "{} did not accept the link: {}", endpoint.text(), answer.error().text);
    }
    if (!std::ranges::equal(answer->first(link_answer.size()), link_answer)) {
        return fail(Errc::protocol, "{} refused the link", endpoint.text());
    }
    opened->transport = with_faults(std::move(opened->transport));
    return opened->can_resume ? make_link(*opened, endpoint, token) : std::move(opened->transport);
}

}  // namespace

Result<std::unique_ptr<Transport>> open_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline) {
    return despite_resets([&] { return try_link(endpoint, token, deadline); });
}

Result<Comer> open_for_token(UniqueFd socket, ConstBytes first, bool can_resume) {
    auto accepted = accept_transport(std::move(socket), first, can_resume);
    if (!accepted) {
        return std::unexpected(accepted.error());
    }
    Inbound in(*accepted->transport, accepted->first_is_used ? ConstBytes() : first, seconds(10), microseconds{0});
    auto bytes = in.peek(sizeof(wire::RequestHeader));
    if (!bytes) {
        return std::unexpected(bytes.error());
    }
    const auto header = load<wire::RequestHeader>(bytes->data());
    Comer comer;
    if (header.command == wire::command_resume && header.size == sizeof(wire::ResumeRequest)) {
        bytes = in.peek(sizeof header + sizeof(wire::ResumeRequest));
        if (!bytes) {
            return std::unexpected(bytes.error());
        }
        comer.resume = load<wire::ResumeRequest>(bytes->data() + sizeof header);
    } else if (header.command != wire::command_link) {
        return fail(Errc::protocol, "it begins with another command than LINK or RESUME");
    } else if (auto sent = send_all(*accepted->transport, {link_answer}, seconds(10)); !sent) {
        return std::unexpected(sent.error());
    }
    comer.transport = with_faults(std::move(accepted->transport));
    return comer;
}

}  // namespace caravan::net
