#include "net/handshake.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <string_view>

#include "base/config.h"
#include "base/log.h"
#include "net/exact_io.h"
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
            auto upgraded = rdma::offer(*socket, deadline);
            if (upgraded) {
                opened.transport = std::move(*upgraded);
                return opened;
            }
            opened.why_not_rdma = upgraded.error().text;
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

// TCP, also if it was RDMA that broke: that is the network that has more ways to work.
Result<ResumableTransport::Reopened> resume(const Endpoint & endpoint, uint64_t token, wire::ResumeRequest resume,
                                            TimePoint deadline) {
    auto opened = open(endpoint, token, transport_wish() == TransportWish::rdma, deadline);
    if (!opened) {
        // Closed so early, it was not for the session's sake.
        return fail(opened.error().code == Errc::closed ? Errc::io : opened.error().code, "{}", opened.error().text);
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
    return ResumableTransport::Reopened{std::move(opened->transport), answer.answer.received};
}

// The client's process, seen from the server. Kept up by the session's own thread.
class Lifeline {
public:
    Lifeline(Endpoint endpoint, uint64_t token) : endpoint_(std::move(endpoint)), token_(token) {}

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
        auto opened = open(endpoint_, token_, false, Clock::now() + seconds(2));
        const wire::RequestHeader request{wire::command_lifeline, 0};
        if (opened && send_all(*opened->transport, {const_bytes(&request, sizeof request)}, seconds(2))) {
            transport_ = std::move(opened->transport);
        }
    }

private:
    static constexpr int max_tries = 20;
    const Endpoint endpoint_;
    const uint64_t token_;
    std::unique_ptr<Transport> transport_;
    int tries_ = 0;
};

std::unique_ptr<Transport> make_resumable(Connected & opened, const Endpoint & endpoint, uint64_t token,
                                          std::function<void()> tend) {
    return std::make_unique<ResumableTransport>(
        std::move(opened.transport),
        ResumableTransport::Options{.name = "RPC server " + endpoint.text(),
                                    .grace = reconnect_time(),
                                    .reopen =
                                        [endpoint, token](wire::ResumeRequest request, TimePoint deadline) {
                                            return resume(endpoint, token, request, deadline);
                                        },
                                    .tend = std::move(tend)});
}

}  // namespace

Result<Opened> open_client(const Endpoint & endpoint, bool for_session, TimePoint deadline) {
    auto opened = open(endpoint, 0, for_session, deadline);
    if (!opened) {
        return std::unexpected(opened.error());
    }
    if (for_session && opened->can_resume && opened->token != 0) {
        const wire::RequestHeader records{wire::command_records, 0};
        if (auto sent = send_all(*opened->transport, {const_bytes(&records, sizeof records)}, deadline - Clock::now());
            !sent) {
            return std::unexpected(sent.error());
        }
        opened->transport = make_resumable(*opened, endpoint, opened->token,
                                           [lifeline = std::make_shared<Lifeline>(endpoint, opened->token)] {
                                               lifeline->tend();
                                           });
    }
    return std::move(*opened);
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
        if (upgraded) {
            accepted.transport = std::move(*upgraded);
            return accepted;
        }
        log_info("RDMA not activated: {}; the session goes on over TCP", upgraded.error().text);
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
    if (!accepted || !can_resume) {
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

Result<std::unique_ptr<Transport>> open_link(const Endpoint & endpoint, uint64_t token, TimePoint deadline) {
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
    return opened->can_resume ? make_resumable(*opened, endpoint, token, {}) : std::move(opened->transport);
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
    comer.transport = std::move(accepted->transport);
    return comer;
}

}  // namespace caravan::net
