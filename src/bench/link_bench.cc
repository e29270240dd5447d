#include "bench/link_bench.h"

#include <algorithm>
#include <array>
#include <memory>

#include "base/config.h"
#include "base/formatted.h"
#include "doctor/flow.h"
#include "net/opening.h"

namespace caravan::bench {
namespace {

constexpr std::array<uint64_t, 10> sizes{64,        256,        1 << 10,   4 << 10, 16 << 10,
                                         64 << 10, 256 << 10, 1 << 20, 4 << 20, 16 << 20};
constexpr uint64_t most_memory = 64 << 20;      // bytes of the server's first device, for each link
constexpr uint32_t most_round_trips = 1000;     // in one round
constexpr std::chrono::hours unlimited{24};     // no further limit: the rounds bound the measurements
constexpr seconds upgrade_limit{10};             // limit of negotiating RDMA

// An open session, with a region of the server's memory.
class Session {
public:
    static Result<std::unique_ptr<Session>> start(std::unique_ptr<net::Transport> transport, milliseconds silence) {
        std::unique_ptr<Session> session(new Session(std::move(transport), silence));
        const auto count = session->peer_.device_count();
        if (!count || *count == 0) {
            return count ? fail(Errc::unavailable, "the server has no device") : std::unexpected(count.error());
        }
        const auto memory =
            session->peer_.request<wire::DeviceMemoryReply>(wire::Command::get_device_memory, wire::DeviceRequest{0});
        if (!memory) {
            return std::unexpected(memory.error());
        }
        const auto region = session->peer_.allocate(memory->free, most_memory);
        if (!region) {
            return std::unexpected(region.error());
        }
        session->region_ = *region;
        return session;
    }

    net::TransportKind kind() const { return peer_.kind(); }
    bool holds(uint64_t size) const { return size <= region_.buffer.size; }

    Result<> measure(SizeSamples & out, milliseconds time) {
        auto trips = round_trips(out.bytes, time);
        if (!trips) {
            return std::unexpected(trips.error());
        }
        const auto to_server = doctor::rate_to_server(peer_, region_, out.bytes, time);
        if (!to_server) {
            return std::unexpected(to_server.error());
        }
        const auto from_server = doctor::rate_from_server(peer_, region_, out.bytes, time);
        if (!from_server) {
            return std::unexpected(from_server.error());
        }
        out.round_trips_us.push_back(std::move(*trips));
        out.to_server.push_back(*to_server);
        out.from_server.push_back(*from_server);
        return {};
    }

private:
    Session(std::unique_ptr<net::Transport> transport, milliseconds silence)
        : peer_(std::move(transport), {.reply = silence, .total = unlimited}) {}

    // The first round trip is not counted; at least one is.
    Result<std::vector<double>> round_trips(uint64_t size, milliseconds time) {
        std::vector<std::byte> sent(size), back(size);
        std::vector<double> out;
        const TimePoint end = Clock::now() + time;
        for (uint32_t i = 0; i < 2 || (i <= most_round_trips && Clock::now() < end); ++i) {
            std::ranges::fill(sent, static_cast<std::byte>(i + 1));
            const TimePoint start = Clock::now();
            auto done = peer_.write(region_, 0, sent);
            done = done ? peer_.await(peer_.read(region_, 0, back)) : done;
            const TimePoint arrived = Clock::now();
            if (!done) {
                return std::unexpected(done.error());
            }
            if (sent != back) {
                return fail(Errc::protocol, "{} bytes were received differently from what was sent", size);
            }
            if (i > 0) {
                out.push_back(std::chrono::duration<double, std::micro>(arrived - start).count());
            }
        }
        return peer_.check_connection().transform([&] { return std::move(out); });
    }

    doctor::Conversation peer_;
    doctor::Region region_;
};

struct OpenLink {
    std::unique_ptr<Session> session;
    Link link;

    void fail_with(const Error & error) {
        link.failure = error.text;
        link.advice = error.advice;
        session.reset();
    }
};

// `for_session`: opens the link like a session of a program, with RDMA if possible; otherwise without RDMA.
OpenLink open_link(const net::Endpoint & endpoint, bool for_session, milliseconds silence, const Progress & progress) {
    OpenLink out{.link = {.endpoint = endpoint.text()}};
    const net::Queueing queueing{
        .until = Clock::now() + reply_timeout(), .on_wait = [&](const wire::AdmissionReply & place) {
            if (place.reason != wire::AdmissionReply::Reason::starting) {
                progress(formatted("{}: waiting for a session, for {} s at most (GGML_RPC_TIMEOUT_S): {}", endpoint.text(),
                              reply_timeout().count(), net::describe(place)));
            }
        }};
    auto opened = net::open_client(endpoint, for_session, Clock::now() + silence + upgrade_limit, queueing);
    if (!opened) {
        opened.error().text = net::without_endpoint(endpoint, opened.error().text);
        out.fail_with(opened.error());
        return out;
    }
    out.link.transport = opened->transport->kind();
    out.link.why_not_rdma = opened->why_not_rdma.text;
    auto session = Session::start(std::move(opened->transport), silence);
    if (!session) {
        out.fail_with(session.error());
        return out;
    }
    out.session = std::move(*session);
    for (const uint64_t size : sizes) {
        if (out.session->holds(size)) {
            out.link.sizes.push_back({.bytes = size});
        }
    }
    return out;
}

// Opens a second connection only if the first uses RDMA: a stock server serves one at a time.
std::vector<OpenLink> open_links(const net::Endpoint & endpoint, milliseconds silence, const Progress & progress) {
    std::vector<OpenLink> links;
    links.push_back(open_link(endpoint, true, silence, progress));
    if (links.front().link.transport == net::TransportKind::rdma && transport_mode() == TransportMode::automatic) {
        links.insert(links.begin(), open_link(endpoint, false, silence, progress));
    }
    return links;
}

void run_round(std::vector<OpenLink> & links, uint32_t round, milliseconds time) {
    for (size_t size = 0; size < sizes.size(); ++size) {
        for (size_t position = 0; position < links.size(); ++position) {
            OpenLink & open = links[turn(round + size, position, links.size())];
            if (open.session == nullptr || size >= open.link.sizes.size()) {
                continue;
            }
            if (auto done = open.session->measure(open.link.sizes[size], time); !done) {
                open.fail_with(done.error());
            }
        }
    }
}

}  // namespace

bool LinkBench::any_failed() const {
    return std::ranges::any_of(links, [](const Link & link) { return !link.failure.empty(); });
}

void run(LinkBench & bench, const std::vector<net::Endpoint> & endpoints, const Progress & progress) {
    for (const net::Endpoint & endpoint : endpoints) {
        std::vector<OpenLink> links = open_links(endpoint, bench.silence, progress);
        for (uint32_t round = 0; round < bench.rounds; ++round) {
            if (std::ranges::any_of(links, [](const OpenLink & open) { return open.session != nullptr; })) {
                run_round(links, round, bench.time);
                progress(formatted("{}: round {} of {} done", endpoint.text(), round + 1, bench.rounds));
            }
        }
        for (OpenLink & open : links) {
            bench.links.push_back(std::move(open.link));
        }
    }
}

}  // namespace caravan::bench
