// ResumableTransport over pairs of Unix sockets that are cut repeatedly, at any byte.
#include "net/resume/resumable_transport.h"

#include <gtest/gtest.h>
#include <poll.h>
#include <sys/socket.h>

#include <algorithm>
#include <array>
#include <atomic>
#include <cstring>
#include <random>
#include <thread>

#include "net/exact_io.h"
#include "net/inbound.h"
#include "wire/record_check.h"

namespace caravan::net {
namespace {

// Twenty times as fast as in use.
const Pace quick{.idle_check = milliseconds(20),
                 .probe_after = milliseconds(50),
                 .pause = [](microseconds pause) { return pause / 20; }};

struct Pair {
    std::unique_ptr<Transport> near, far;
    int near_fd = -1, far_fd = -1;
};

Pair make_pair_of_transports(int buffer = 0) {
    int ends[2];
    EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
    for (const int end : ends) {
        if (buffer > 0) {
            ::setsockopt(end, SOL_SOCKET, SO_SNDBUF, &buffer, sizeof buffer);
        }
    }
    Pair pair;
    pair.near_fd = ends[0];
    pair.far_fd = ends[1];
    pair.near = *make_socket_transport(UniqueFd(ends[0]));
    pair.far = *make_socket_transport(UniqueFd(ends[1]));
    return pair;
}

// Delivers a number of bytes, counted over both directions, and then fails. Bytes sent and not yet delivered are lost.
class Cut final : public Transport {
public:
    Cut(std::unique_ptr<Transport> inner, std::shared_ptr<std::atomic<int64_t>> left)
        : inner_(std::move(inner)), left_(std::move(left)) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        if (*left_ <= 0) {
            return fail(Errc::io, "cut");
        }
        for (const ConstBytes part : parts) {
            if (!part.empty()) {
                const std::array one{part};  // often a short send
                return inner_->send(one);
            }
        }
        return size_t{0};
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        return *left_ <= 0 ? fail(Errc::io, "cut") : note(inner_->receive(parts));
    }
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override {
        if (*left_ <= 0) {
            return fail(Errc::io, "cut");
        }
        // The other end may cut while this one sleeps.
        return inner_->wait(interest, std::min(deadline, Clock::now() + milliseconds(5)), spin)
            .transform([&](bool ready) { return ready || Clock::now() < deadline; });
    }
    void wake() override { inner_->wake(); }
    TransportKind kind() const override { return TransportKind::tcp; }

private:
    Result<size_t> note(Result<size_t> moved) {
        if (moved) {
            *left_ -= static_cast<int64_t>(*moved);
        } else if (moved.error().code == Errc::closed) {
            return fail(Errc::io, "cut at the peer");
        }
        return moved;
    }
    std::unique_ptr<Transport> inner_;
    std::shared_ptr<std::atomic<int64_t>> left_;
};

// Drops or corrupts some checksummed records that are passed together with their header.
class Damage final : public Transport {
public:
    Damage(std::unique_ptr<Transport> inner, unsigned seed) : inner_(std::move(inner)), random_(seed) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        std::vector<std::byte> bytes;
        for (const ConstBytes part : parts) {
            bytes.insert(bytes.end(), part.begin(), part.end());
        }
        const bool is_whole = parts[0].size() == sizeof(wire::RecordHeader) && bytes.size() <= wire::max_checked_record;
        if (!is_whole || random_() % 50 != 0) {
            return inner_->send(parts);
        }
        if (random_() % 2 == 0) {
            return bytes.size();
        }
        bytes[random_() % bytes.size()] ^= std::byte{4};
        const std::array whole{ConstBytes(bytes)};
        return inner_->send(whole);
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override { return inner_->receive(parts); }
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override {
        return inner_->wait(interest, deadline, spin);
    }
    void wake() override { inner_->wake(); }
    TransportKind kind() const override { return TransportKind::tcp; }

private:
    std::unique_ptr<Transport> inner_;
    std::mt19937 random_;
};

// Two ends whose connections last for a random number of bytes or, if `longest` is 0, corrupt data.
struct Flaky {
    explicit Flaky(unsigned seed, int64_t longest) : random(seed), longest(longest) {
        Pair pair = connect();
        passive = std::make_unique<ResumableTransport>(
            std::move(pair.far),
            ResumableTransport::Options{.name = "active", .grace = seconds(20), .reconnect = {}, .pace = quick});
        active = std::make_unique<ResumableTransport>(
            std::move(pair.near),
            ResumableTransport::Options{.name = "passive", .grace = seconds(20),
                                        .reconnect = [this](ResumableTransport::Attempt attempt) {
                                            return reconnect(attempt.request, attempt.deadline);
                                        },
                                        .pace = quick});
    }
    Pair connect() {
        ++connections;
        Pair pair = make_pair_of_transports(static_cast<int>(4096 + random() % 100'000));
        if (longest == 0) {
            auto endless = std::make_shared<std::atomic<int64_t>>(INT64_MAX);
            pair.near = std::make_unique<Damage>(std::make_unique<Cut>(std::move(pair.near), endless), random());
            pair.far = std::make_unique<Damage>(std::make_unique<Cut>(std::move(pair.far), endless), random());
            return pair;
        }
        auto left = std::make_shared<std::atomic<int64_t>>(static_cast<int64_t>(random() % longest));
        pair.near = std::make_unique<Cut>(std::move(pair.near), left);
        pair.far = std::make_unique<Cut>(std::move(pair.far), left);
        return pair;
    }
    Result<ResumableTransport::Reconnected> reconnect(wire::ResumeRequest request, TimePoint deadline) {
        Pair pair = connect();
        if (random() % 8 == 0) {
            return fail(Errc::timed_out, "no luck");
        }
        if (auto taken = passive->take_over(std::move(pair.far), request); !taken) {
            return fail(Errc::closed, "{}", taken.error().text);
        }
        struct {
            uint64_t size = 0;
            wire::ResumeReply reply{};
        } reply;
        size_t got = 0;
        while (got < sizeof reply) {
            const std::array parts{mutable_bytes(&reply, sizeof reply).subspan(got)};
            const auto more = pair.near->receive(parts);
            if (!more || (*more == 0 && !pair.near->wait({.read = true}, deadline, microseconds{0}))) {
                return fail(Errc::timed_out, "cut in the reply");
            }
            got += *more;
        }
        EXPECT_EQ(reply.size, sizeof reply.reply);
        return ResumableTransport::Reconnected{std::move(pair.near), reply.reply.received};
    }
    std::mt19937 random;
    const int64_t longest;
    std::atomic<int> connections = 0;
    std::unique_ptr<ResumableTransport> passive, active;
};

std::byte byte_at(uint64_t position) { return static_cast<std::byte>(position * 2654435761u >> 13); }

// The bytes of the stream from `begin` on.
ConstBytes stream_bytes(uint64_t begin, size_t size) {
    static const std::vector<std::byte> whole = [] {
        std::vector<std::byte> bytes(30'000'000);
        for (size_t i = 0; i < bytes.size(); ++i) {
            bytes[i] = byte_at(i);
        }
        return bytes;
    }();
    return ConstBytes(whole).subspan(begin, size);
}

void send_stream(Transport & transport, uint64_t size, unsigned seed) {
    std::mt19937 random(seed);
    std::vector<std::byte> bytes;
    for (uint64_t sent = 0; sent < size;) {
        bytes.resize(std::min<uint64_t>(size - sent, 1 + random() % (random() % 4 == 0 ? 500'000 : 3000)));
        std::memcpy(bytes.data(), stream_bytes(sent, bytes.size()).data(), bytes.size());
        const size_t half = bytes.size() / 2;
        const bool lends = random() % 2 == 0;
        if (lends) {
            transport.lend(ConstBytes(bytes).subspan(half / 2));
        }
        const auto done = send_all(transport, {ConstBytes(bytes).first(half), ConstBytes(bytes).subspan(half)}, seconds(20));
        ASSERT_TRUE(done) << done.error().text;
        if (lends) {
            transport.end_loan();
        }
        std::memset(bytes.data(), 0xee, bytes.size());  // the transport must not use it any more
        sent += bytes.size();
    }
}

void receive_stream(Transport & transport, uint64_t size, unsigned seed) {
    std::mt19937 random(seed);
    Inbound in(transport, {}, seconds(20), microseconds{20});
    std::vector<std::byte> bytes;
    for (uint64_t got = 0; got < size;) {
        bytes.resize(std::min<uint64_t>(size - got, 1 + random() % (random() % 4 == 0 ? 700'000 : 3000)));
        const auto done = in.read_into(bytes);
        ASSERT_TRUE(done) << done.error().text;
        const ConstBytes expected = stream_bytes(got, bytes.size());
        ASSERT_EQ(std::memcmp(bytes.data(), expected.data(), bytes.size()), 0)
            << "byte " << got + static_cast<size_t>(std::ranges::mismatch(bytes, expected).in1 - bytes.begin());
        got += bytes.size();
    }
}

TEST(Resumable, DeliversEachByteOnceInBothDirections) {
    for (unsigned seed = 0; seed < 6; ++seed) {
        Flaky flaky(seed, seed % 2 == 0 ? 30'000 : 3'000'000);
        const uint64_t size = seed % 2 == 0 ? 1'000'000 : 30'000'000;
        for (const auto & [from, to] : {std::pair(flaky.active.get(), flaky.passive.get()),
                                        std::pair(flaky.passive.get(), flaky.active.get())}) {
            std::atomic<bool> done = false;
            std::thread sender([&] {
                send_stream(*from, size, seed);
                while (!done) {  // as a session that waits for the next command
                    (void)from->wait({.read = true}, Clock::now() + milliseconds(10), microseconds{0});
                }
            });
            receive_stream(*to, size, seed + 1);
            done = true;
            sender.join();
        }
        EXPECT_GT(flaky.connections, 5) << "seed " << seed;
    }
}

// Each message depends on the peer's last one.
TEST(Resumable, PingPongAcrossCuts) {
    Flaky flaky(7, 2000);
    constexpr int rounds = 2000;
    std::thread server([&] {
        Inbound in(*flaky.passive, {}, seconds(20), microseconds{20});
        for (int i = 0; i < rounds; ++i) {
            int value = 0;
            ASSERT_TRUE(in.read_into(mutable_bytes(&value, sizeof value)));
            ASSERT_EQ(value, i);
            ASSERT_TRUE(send_all(*flaky.passive, {const_bytes(&value, sizeof value)}, seconds(20)));
        }
    });
    Inbound in(*flaky.active, {}, seconds(20), microseconds{20});
    for (int i = 0; i < rounds; ++i) {
        ASSERT_TRUE(send_all(*flaky.active, {const_bytes(&i, sizeof i)}, seconds(20)));
        int value = -1;
        ASSERT_TRUE(in.read_into(mutable_bytes(&value, sizeof value)));
        ASSERT_EQ(value, i);
    }
    server.join();
    EXPECT_GT(flaky.connections, 20);
}

// The last message of a side may be lost: the probe after it reveals it.
TEST(Resumable, RetransmitsLostAndCorruptedRecords) {
    Flaky flaky(3, 0);
    constexpr int rounds = 200;
    std::vector<std::byte> request(2000), reply(300);
    std::thread server([&] {
        Inbound in(*flaky.passive, {}, seconds(20), microseconds{20});
        for (int i = 0; i < rounds; ++i) {
            std::vector<std::byte> got(2000);
            ASSERT_TRUE(in.read_into(got));
            ASSERT_TRUE(std::ranges::count(got, static_cast<std::byte>(i)) == 2000) << i;
            ASSERT_TRUE(send_all(*flaky.passive, {ConstBytes(got).first(300)}, seconds(20)));
        }
    });
    Inbound in(*flaky.active, {}, seconds(20), microseconds{20});
    for (int i = 0; i < rounds; ++i) {
        std::ranges::fill(request, static_cast<std::byte>(i));
        ASSERT_TRUE(send_all(*flaky.active, {request}, seconds(20)));
        ASSERT_TRUE(in.read_into(reply));
        ASSERT_TRUE(std::ranges::count(reply, static_cast<std::byte>(i)) == 300) << i;
    }
    server.join();
    EXPECT_GT(flaky.connections, 3);
}

// A connection of a given kind that can be cut.
class OfKind final : public Transport {
public:
    OfKind(std::unique_ptr<Transport> inner, TransportKind kind, std::shared_ptr<std::atomic<bool>> is_cut)
        : inner_(std::move(inner)), kind_(kind), is_cut_(std::move(is_cut)) {}
    Result<size_t> send(std::span<const ConstBytes> parts) override {
        return *is_cut_ ? fail(Errc::io, "cut") : inner_->send(parts);
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        return *is_cut_ ? fail(Errc::io, "cut") : inner_->receive(parts);
    }
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override {
        if (*is_cut_) {
            return fail(Errc::io, "cut");
        }
        return inner_->wait(interest, std::min(deadline, Clock::now() + milliseconds(5)), spin)
            .transform([&](bool ready) { return ready || Clock::now() < deadline; });
    }
    void wake() override { inner_->wake(); }
    void break_off() override { *is_cut_ = true; }  // a close of the socket would look orderly
    TransportKind kind() const override { return kind_; }

private:
    const std::unique_ptr<Transport> inner_;
    const TransportKind kind_;
    const std::shared_ptr<std::atomic<bool>> is_cut_;
};

// Two ends that begin over RDMA, or over TCP. New connections use TCP, except those that open_rdma opens.
struct OverRdma {
    enum class Upgrade { works, cannot_open, hangs, fails_to_resume };

    explicit OverRdma(Upgrade upgrade, TransportKind first = TransportKind::rdma) : upgrade(upgrade) {
        Pair pair = connect(first);
        passive = std::make_unique<ResumableTransport>(
            std::move(pair.far),
            ResumableTransport::Options{.name = "active", .grace = seconds(20), .reconnect = {}, .pace = quick});
        active = std::make_unique<ResumableTransport>(
            std::move(pair.near),
            ResumableTransport::Options{.name = "passive", .grace = seconds(20),
                                        .reconnect = [this](ResumableTransport::Attempt attempt) { return resume(attempt); },
                                        .open_rdma = [this](TimePoint, const auto & stop) { return open_rdma(stop); },
                                        .open_first_rdma = [this](TimePoint, const auto & stop) { return open_rdma(stop); },
                                        .pace = quick});
    }
    Pair connect(TransportKind kind) {
        Pair pair = make_pair_of_transports();
        auto cut = std::make_shared<std::atomic<bool>>(false);
        pair.near = std::make_unique<OfKind>(std::move(pair.near), kind, cut);
        pair.far = std::make_unique<OfKind>(std::move(pair.far), kind, cut);
        std::lock_guard lock(mutex);
        newest = std::move(cut);
        return pair;
    }
    void cut() {
        std::lock_guard lock(mutex);
        *newest = true;
    }
    Result<std::unique_ptr<Transport>> open_rdma(const std::stop_token & stop) {
        ++opened;
        if (upgrade == Upgrade::hangs) {
            std::unique_lock lock(mutex);
            std::condition_variable_any changed;
            was_stopped = !changed.wait_for(lock, stop, seconds(20), [] { return false; }) && stop.stop_requested();
        }
        if (upgrade == Upgrade::cannot_open || upgrade == Upgrade::hangs) {
            return fail(Errc::unavailable, "no RDMA device");
        }
        const bool works = upgrade == Upgrade::works;
        Pair pair = make_pair_of_transports();
        auto is_cut = std::make_shared<std::atomic<bool>>(!works);
        pair.near = std::make_unique<OfKind>(std::move(pair.near), TransportKind::rdma, is_cut);
        far_of_rdma = std::make_unique<OfKind>(std::move(pair.far), TransportKind::rdma, is_cut);
        std::lock_guard lock(mutex);
        newest = works ? is_cut : newest;
        return std::move(pair.near);
    }
    Result<ResumableTransport::Reconnected> resume(ResumableTransport::Attempt & attempt) {
        Pair pair;
        if (attempt.over != nullptr) {
            pair.near = std::move(attempt.over);
            pair.far = std::move(far_of_rdma);
            if (upgrade == Upgrade::fails_to_resume) {
                return fail(Errc::io, "cut");
            }
        } else {
            pair = connect(TransportKind::tcp);
        }
        if (auto taken = passive->take_over(std::move(pair.far), attempt.request); !taken) {
            return fail(Errc::closed, "{}", taken.error().text);
        }
        struct {
            uint64_t size = 0;
            wire::ResumeReply reply{};
        } reply;
        if (auto got = receive_whole(*pair.near, mutable_bytes(&reply, sizeof reply), attempt.deadline); !got) {
            return std::unexpected(got.error());
        }
        return ResumableTransport::Reconnected{std::move(pair.near), reply.reply.received};
    }
    // Exchanges messages in both directions until `done`, at most for 20 s.
    void exchange_until(const std::function<bool()> & done) {
        const TimePoint give_up = Clock::now() + seconds(20);
        for (uint32_t i = 0; !done(); ++i) {
            ASSERT_LT(Clock::now(), give_up);
            std::vector<std::byte> sent(1 + i * 7919 % 70'000, static_cast<std::byte>(i)), got(sent.size());
            for (auto [from, to] : {std::pair(active.get(), passive.get()), std::pair(passive.get(), active.get())}) {
                std::thread sender([&] { ASSERT_TRUE(send_all(*from, {sent}, seconds(20))); });
                const auto received = receive_whole(*to, got, Clock::now() + seconds(20));
                sender.join();
                ASSERT_TRUE(received) << received.error().text;
                ASSERT_EQ(got, sent);
            }
        }
    }
    const Upgrade upgrade;
    std::mutex mutex;
    std::shared_ptr<std::atomic<bool>> newest;
    std::unique_ptr<Transport> far_of_rdma;
    std::atomic<int> opened = 0;
    bool was_stopped = false;
    std::unique_ptr<ResumableTransport> passive, active;
};

TEST(Resumable, ReturnsToRdmaWhileDataMove) {
    OverRdma ends(OverRdma::Upgrade::works);
    for (int loss = 0; loss < 2; ++loss) {
        ends.cut();
        ends.exchange_until([&] { return ends.active->kind() == TransportKind::tcp; });
        ends.exchange_until([&] {
            return ends.active->kind() == TransportKind::rdma && ends.passive->kind() == TransportKind::rdma;
        });
    }
    EXPECT_EQ(ends.opened, 2);
}

TEST(Resumable, SwitchesToRdmaOnRequest) {
    OverRdma ends(OverRdma::Upgrade::works, TransportKind::tcp);
    std::atomic<int> reports = 0;
    int exchanges = 0;
    ends.exchange_until([&] { return ++exchanges > 10; });
    EXPECT_EQ(ends.opened, 0) << "not before it is requested";
    for (int calls = 0; calls < 2; ++calls) {
        ends.active->begin_upgrade([&](const Error * why_not) { reports += why_not == nullptr ? 1 : 100; });
    }
    ends.active->await_upgrade(Clock::now() + seconds(20));
    EXPECT_EQ(ends.active->kind(), TransportKind::rdma);
    EXPECT_EQ(ends.active->replacements(), 0u) << "no connection was lost";
    ends.exchange_until([&] { return ends.passive->kind() == TransportKind::rdma && reports > 0; });
    EXPECT_EQ(reports, 1);
    EXPECT_EQ(ends.opened, 1);
    ends.cut();
    ends.exchange_until([&] { return ends.active->kind() == TransportKind::tcp; });
    ends.exchange_until([&] { return ends.active->kind() == TransportKind::rdma; });
}

TEST(Resumable, StaysOnTcpIfRdmaCannotBeUsed) {
    OverRdma ends(OverRdma::Upgrade::cannot_open, TransportKind::tcp);
    std::atomic<bool> is_reported = false;
    ends.active->begin_upgrade([&](const Error * why_not) {
        ASSERT_NE(why_not, nullptr);
        EXPECT_EQ(why_not->text, "no RDMA device");
        is_reported = true;
    });
    ends.active->await_upgrade(Clock::now() + seconds(20));
    ends.exchange_until([&] { return is_reported.load(); });
    EXPECT_EQ(ends.active->kind(), TransportKind::tcp);
    EXPECT_EQ(ends.opened, 1);
}

TEST(Resumable, ClosingStopsTheSwitchToRdma) {
    OverRdma ends(OverRdma::Upgrade::hangs, TransportKind::tcp);
    bool has_reason = false;
    ends.active->begin_upgrade([&](const Error * why_not) { has_reason = why_not != nullptr; });
    int exchanges = 0;
    ends.exchange_until([&] { return ++exchanges > 10 && ends.opened > 0; });  // meanwhile data moves over TCP
    ends.active.reset();
    EXPECT_TRUE(ends.was_stopped);
    EXPECT_TRUE(has_reason) << "why the session has used TCP only";
}

TEST(Resumable, ReturnsToRdmaWhileIdle) {
    OverRdma ends(OverRdma::Upgrade::works);
    ends.cut();
    const TimePoint give_up = Clock::now() + seconds(20);
    while (ends.opened == 0 || ends.active->kind() != TransportKind::rdma) {
        ASSERT_LT(Clock::now(), give_up);
        (void)ends.passive->wait({.read = true}, Clock::now() + milliseconds(10), microseconds{0});
    }
    int messages = 0;
    ends.exchange_until([&] { return ++messages > 10; });
}

TEST(Resumable, AFailedReturnToRdmaLosesNothing) {
    for (const auto upgrade : {OverRdma::Upgrade::cannot_open, OverRdma::Upgrade::fails_to_resume}) {
        OverRdma ends(upgrade);
        ends.cut();
        const int attempts = upgrade == OverRdma::Upgrade::cannot_open ? 2 : 1;
        ends.exchange_until([&] { return ends.opened >= attempts; });
        ends.exchange_until([&] { return ends.active->kind() == TransportKind::tcp; });
    }
}

struct Ends {
    std::unique_ptr<ResumableTransport> passive, active;
    int passive_fd = -1;
    std::atomic<int> tries = 0;
};

void connect(Ends & ends, milliseconds grace, Errc refusal) {
    Pair pair = make_pair_of_transports();
    ends.passive_fd = pair.far_fd;
    ends.passive = std::make_unique<ResumableTransport>(
        std::move(pair.far), ResumableTransport::Options{.name = "active", .grace = grace, .reconnect = {}});
    ends.active = std::make_unique<ResumableTransport>(
        std::move(pair.near), ResumableTransport::Options{.name = "passive", .grace = grace,
                                                          .reconnect = [&ends, refusal](const ResumableTransport::Attempt &)
                                                              -> Result<ResumableTransport::Reconnected> {
                                                              ++ends.tries;
                                                              return fail(refusal, "not now");
                                                          },
                                                          .pace = quick});
}

Error end_of(Transport & transport) {
    std::byte byte;
    for (;;) {
        const std::array parts{MutableBytes(&byte, 1)};
        if (const auto got = transport.receive(parts); !got) {
            return got.error();
        }
        if (const auto waited = transport.wait({.read = true}, Clock::now() + seconds(10), microseconds{0}); !waited) {
            return waited.error();
        }
    }
}

TEST(Resumable, APermanentRefusalIsNotRetried) {
    Ends ends;
    connect(ends, seconds(60), Errc::closed);
    ends.passive.reset();
    EXPECT_EQ(end_of(*ends.active).code, Errc::closed);
    EXPECT_EQ(ends.tries, 1);
}

TEST(Resumable, TheActiveEndGivesUpAfterTheGracePeriod) {
    Ends ends;
    connect(ends, milliseconds(300), Errc::timed_out);
    ends.passive.reset();
    const TimePoint begin = Clock::now();
    const Error end = end_of(*ends.active);
    EXPECT_EQ(end.code, Errc::timed_out);
    EXPECT_TRUE(end.text.ends_with("reconnecting failed for 0.3 s: not now")) << end.text;
    EXPECT_GE(Clock::now() - begin, milliseconds(290));
    EXPECT_GE(ends.tries, 3);
}

TEST(Resumable, ConnectionsWithoutProgressDoNotExtendTheGracePeriod) {
    Pair pair = make_pair_of_transports();
    std::atomic<int> tries = 0;
    ResumableTransport active(
        std::move(pair.near),
        {.name = "passive",
         .grace = milliseconds(300),
         .reconnect =
             [&tries](const ResumableTransport::Attempt &) {
                 ++tries;
                 return Result<ResumableTransport::Reconnected>({make_pair_of_transports().near, 0});
             },
         .pace = {.pause = [](microseconds pause) { return pause / 4; }}});
    pair.far.reset();
    const TimePoint begin = Clock::now();
    EXPECT_EQ(end_of(active).code, Errc::timed_out);
    EXPECT_LT(Clock::now() - begin, seconds(8));
    EXPECT_GT(tries, 2);
    EXPECT_LT(tries, 20);
}

TEST(Resumable, AnOrderlyCloseEndsThePassiveEndAtOnce) {
    Ends ends;
    connect(ends, seconds(60), Errc::closed);
    ends.active.reset();
    const TimePoint begin = Clock::now();
    EXPECT_EQ(end_of(*ends.passive).code, Errc::closed);
    EXPECT_LT(Clock::now() - begin, seconds(5));
}

TEST(Resumable, ABrokenOffConnectionEndsAtOnceHereAndIsResetThere) {
    Pair pair = make_pair_of_transports();
    ResumableTransport near(std::move(pair.near), {.name = "far", .grace = seconds(60), .reconnect = {}});
    near.break_off();
    EXPECT_EQ(end_of(near).code, Errc::closed);
    std::byte byte;
    const std::array parts{MutableBytes(&byte, 1)};
    EXPECT_FALSE(pair.far->receive(parts));
}

TEST(Resumable, ThePassiveEndGivesUpAfterTheGracePeriod) {
    Pair pair = make_pair_of_transports();
    auto left = std::make_shared<std::atomic<int64_t>>(0);
    ResumableTransport passive(std::make_unique<Cut>(std::move(pair.far), left),
                               {.name = "active", .grace = milliseconds(300), .reconnect = {}});
    const TimePoint begin = Clock::now();
    EXPECT_EQ(end_of(passive).code, Errc::timed_out);
    EXPECT_GE(Clock::now() - begin, milliseconds(290));
    EXPECT_LT(Clock::now() - begin, seconds(8));
}

// A peer on a raw socket that violates the protocol.
struct Hostile {
    explicit Hostile() {
        int ends[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, ends), 0);
        raw = UniqueFd(ends[0]);
        transport = std::make_unique<ResumableTransport>(
            *make_socket_transport(UniqueFd(ends[1])),
            ResumableTransport::Options{.name = "hostile", .grace = seconds(60), .reconnect = {}});
    }
    void send(wire::RecordHeader header) {
        header.check = wire::record_check(0, header, {});
        ASSERT_EQ(::write(raw.get(), &header, sizeof header), static_cast<ssize_t>(sizeof header));
    }
    UniqueFd raw;
    std::unique_ptr<ResumableTransport> transport;
};

TEST(Resumable, HostileRecordsCloseTheTransport) {
    {
        Hostile peer;
        peer.send({wire::max_record + 1, 0, 0});
        EXPECT_EQ(end_of(*peer.transport).code, Errc::protocol);
    }
    {
        Hostile peer;
        peer.send({0, 0, 1});  // acknowledges bytes that were never sent
        EXPECT_EQ(end_of(*peer.transport).code, Errc::protocol);
    }
    {
        Hostile peer;  // standalone acknowledgements are harmless
        std::array<wire::RecordHeader, 1000> many{};
        many.fill({0, wire::record_check(0, {}, {}), 0});
        ASSERT_EQ(::write(peer.raw.get(), many.data(), sizeof many), static_cast<ssize_t>(sizeof many));
        std::byte byte;
        const std::array parts{MutableBytes(&byte, 1)};
        for (int i = 0; i < 10; ++i) {
            const auto got = peer.transport->receive(parts);
            ASSERT_TRUE(got);
            EXPECT_EQ(*got, 0u);
        }
    }
    {
        Hostile peer;  // resumes at a position that was never sent
        Pair pair = make_pair_of_transports();
        EXPECT_FALSE(peer.transport->take_over(std::move(pair.far), {1, 1}));
        EXPECT_EQ(end_of(*peer.transport).code, Errc::protocol);
    }
}

TEST(Resumable, StaleAttemptsAreRefused) {
    Hostile peer;
    Pair second = make_pair_of_transports(), first = make_pair_of_transports();
    ASSERT_TRUE(peer.transport->take_over(std::move(second.far), {0, 2}));
    EXPECT_FALSE(peer.transport->take_over(std::move(first.far), {0, 1}));
    wire::RecordHeader header{1, 0, 0};
    const std::byte byte{42};
    const std::array data{ConstBytes(&byte, 1)};
    header.check = wire::record_check(0, header, data);
    ASSERT_TRUE(send_all(*second.near, {const_bytes(&header, sizeof header), ConstBytes(&byte, 1)}, seconds(5)));
    Inbound in(*peer.transport, {}, seconds(5), microseconds{0});
    std::byte got{};
    ASSERT_TRUE(in.read_into({&got, 1}));
    EXPECT_EQ(got, byte);
}

// While a lifeline watches the peer, even an orderly close of the connection does not mean that the peer has exited.
TEST(Resumable, AWatchedPeerEndsOnlyThroughPeerEnded) {
    Hostile peer;
    peer.transport->watch_peer(true);
    peer.raw.reset();
    std::byte byte;
    const std::array parts{MutableBytes(&byte, 1)};
    EXPECT_TRUE(peer.transport->receive(parts));
    EXPECT_TRUE(peer.transport->wait({.read = true}, Clock::now() + milliseconds(50), microseconds{0}));
    peer.transport->peer_ended();
    EXPECT_EQ(end_of(*peer.transport).code, Errc::closed);
}

// The replay buffer for a peer that never acknowledges is bounded.
TEST(Resumable, APeerThatAcknowledgesNothingGetsOneWindow) {
    Hostile peer;
    const std::vector<std::byte> bytes(1 << 20);
    std::thread reader([fd = peer.raw.get()] {
        std::vector<std::byte> sink(1 << 20);
        pollfd wait{fd, POLLIN, 0};
        while (::poll(&wait, 1, 500) > 0 && ::read(fd, sink.data(), sink.size()) > 0) {
        }
    });
    uint64_t sent = 0;
    const std::array parts{ConstBytes(bytes)};
    for (const TimePoint end = Clock::now() + seconds(10); sent < wire::resume_window && Clock::now() < end;) {
        sent += *peer.transport->send(parts);
    }
    for (int i = 0; i < 100; ++i) {
        sent += *peer.transport->send(parts);
    }
    reader.join();
    EXPECT_EQ(sent, wire::resume_window);
}

TEST(ReplayBuffer, KeepsBytesAcrossGrowthAndWrapAround) {
    ReplayBuffer buffer;
    std::mt19937 random(1);
    std::vector<std::byte> piece;
    for (int i = 0; i < 3000; ++i) {
        piece.resize(random() % 5000);
        for (size_t j = 0; j < piece.size(); ++j) {
            piece[j] = byte_at(buffer.end() + j);
        }
        buffer.append(piece);
        if (random() % 4 != 0) {
            buffer.forget(buffer.begin() + random() % (buffer.end() - buffer.begin() + 1));
        }
        if (buffer.end() - buffer.begin() > 200'000) {
            buffer.forget(buffer.end() - 1000);
        }
        for (uint64_t position = buffer.begin(); position < buffer.end();) {
            const ConstBytes part = buffer.at(position, buffer.end() - position);
            ASSERT_FALSE(part.empty());
            ASSERT_EQ(part.front(), byte_at(position));
            ASSERT_EQ(part.back(), byte_at(position + part.size() - 1));
            position += part.size();
        }
    }
}

}  // namespace
}  // namespace caravan::net
