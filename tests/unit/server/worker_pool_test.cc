// The supervisor's account of its workers, whose ends of the lines are played by the test.
#include "server/supervisor/worker_pool.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <algorithm>
#include <mutex>
#include <string>
#include <vector>

#include "base/log.h"
#include "server/ipc/build.h"
#include "support/cpu_device.h"

namespace caravan::server {
namespace {

using Kind = ControlMessage::Kind;
using State = WorkerProcess::State;

std::mutex pool_log_mutex;
std::vector<std::string> pool_errors;

class WorkerPoolTest : public testing::Test {
protected:
    static constexpr platform::ProcessId pid = 0x3fffffff;  // of no process
    static constexpr uint64_t token = 77;

    WorkerPoolTest()
        : pool(options, [this] {
              ++starts;
              return fail(Errc::unavailable, "none in this test");
          }) {
        pool.on_memory_reply = [](const ControlMessage &) {};
        pool.on_queries_lost = [] {};
        pool_errors.clear();
        set_log_sink([](LogLevel level, std::string_view line) {
            const std::lock_guard lock(pool_log_mutex);
            if (level == LogLevel::error) {
                pool_errors.emplace_back(line);
            }
        });
        int fds[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0, fds), 0);
        far.reset(fds[1]);
        WorkerProcess loading;
        loading.pid = pid;
        loading.control.reset(fds[0]);
        pool.all().push_back(std::move(loading));
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fds), 0);
        client.reset(fds[0]);
        client_far.reset(fds[1]);
    }

    WorkerProcess & worker() { return pool.all().front(); }
    void say(const ControlMessage & message) {
        ASSERT_TRUE(send_control(far.get(), message));
        pool.receive_messages(worker());
    }
    void be_spare(bool with_gpu = false) {
        say({.kind = Kind::device, .count = 1, .is_cpu = with_gpu ? 0u : 1u});
        say({.kind = Kind::ready});
        ASSERT_EQ(pool.spare(), &worker());
    }
    Result<> begin_session() {
        return pool.begin_session(worker(), {.kind = Kind::session, .number = 1, .token = token}, "10.0.0.2", client.get());
    }
    void serve() {
        be_spare();
        ASSERT_TRUE(begin_session());
        ASSERT_EQ(worker().connections.size(), 1u);
        ASSERT_EQ(pool.owner(token), &worker());
    }
    // As a worker that does not read its line.
    void fill_channel() {
        int sent = 0;
        while (sent < 100'000 && send_control(worker().control.get(), {})) {
            ++sent;
        }
        ASSERT_LT(sent, 100'000);
    }

    WorkerOptions options;
    int starts = 0;  // attempts to start a worker
    WorkerPool pool;
    UniqueFd far;                  // the worker's end
    UniqueFd client, client_far;  // a connection of its client
};

TEST_F(WorkerPoolTest, ForgottenTokensOfLinksMakeRoomForOthers) {
    serve();
    for (uint64_t link = 1000; link < 1000 + max_invitations; ++link) {
        say({.kind = Kind::invite, .token = link});
    }
    say({.kind = Kind::invite, .token = 1});
    EXPECT_EQ(pool.owner(1), nullptr) << "a worker may register so many";
    say({.kind = Kind::forget, .token = 1000});
    EXPECT_EQ(pool.owner(1000), nullptr);
    say({.kind = Kind::invite, .token = 2});
    EXPECT_EQ(pool.owner(2), &worker());
    say({.kind = Kind::forget, .token = token});
    EXPECT_EQ(pool.owner(token), &worker()) << "that of the session is none of a link";
}

TEST_F(WorkerPoolTest, AWorkerOfAnotherBuildIsRefused) {
    worker().awaits_build = true;
    EXPECT_FALSE(pool.receive_messages(worker())) << "its build may arrive later";
    EXPECT_TRUE(pool.outage().empty());
    constexpr std::string_view other = "9.9.9-0123456789ab\x1b";
    ASSERT_EQ(::send(far.get(), other.data(), other.size(), 0), static_cast<ssize_t>(other.size()));
    pool.receive_messages(worker());
    EXPECT_NE(pool.outage().find("caravan-worker is of build 9.9.9-0123456789ab"), std::string::npos) << pool.outage();
    EXPECT_EQ(pool.outage().find('\x1b'), std::string::npos);
    EXPECT_EQ(worker().state, State::retired);
}

TEST_F(WorkerPoolTest, AWorkerOfThisBuildLoads) {
    worker().awaits_build = true;
    ASSERT_TRUE(send_build(far.get()));
    be_spare();
    EXPECT_TRUE(pool.outage().empty());
}

TEST_F(WorkerPoolTest, DevicesOutOfRangeAreNotBelieved) {
    say({.kind = Kind::device, .number = 5, .count = 2});
    say({.kind = Kind::device, .number = 0, .count = UINT32_MAX});
    EXPECT_TRUE(pool.devices().empty());
    say({.kind = Kind::device, .number = 1, .count = 2});
    EXPECT_EQ(pool.devices().size(), 2u);
}

TEST_F(WorkerPoolTest, NobodyIsAskedAboutADeviceThatHasGone) {
    be_spare();
    EXPECT_TRUE(pool.query_memory(0));
    EXPECT_FALSE(pool.query_memory(1)) << "a worker would not answer, and be killed for that";
}

TEST_F(WorkerPoolTest, ASessionThatCannotBeHandedOverChangesNothing) {
    be_spare();
    fill_channel();
    for (int attempt = 0; attempt < 100; ++attempt) {
        EXPECT_FALSE(begin_session());
    }
    EXPECT_EQ(pool.spare(), &worker());
    EXPECT_EQ(pool.owner(token), nullptr);
    EXPECT_TRUE(worker().connections.empty());
    EXPECT_EQ(worker().deadline, no_deadline);
    ASSERT_TRUE(receive_control(far.get(), Descriptors::accept_one));
    while (receive_control(far.get(), Descriptors::accept_one).value()) {
    }
    ASSERT_TRUE(begin_session());
    const auto given = receive_control(far.get(), Descriptors::accept_one);
    ASSERT_TRUE(given && *given);
    EXPECT_EQ((*given)->message.count, 100u) << "it may log as much as any";
}

TEST_F(WorkerPoolTest, ASessionThatCannotBeWatchedDoesNotBegin) {
    EXPECT_EQ(test::ask_in_child([&] {
                  be_spare();
                  const rlimit files{3, 3};
                  ::setrlimit(RLIMIT_NOFILE, &files);
                  const bool is_given = begin_session().has_value();
                  const auto received = receive_control(far.get(), Descriptors::refuse);
                  return !is_given && received && !*received && pool.spare() == &worker();
              }),
              test::Outcome::yes);
}

TEST_F(WorkerPoolTest, AConnectionThatCannotBeHandedOverChangesNothing) {
    serve();
    pool.connection_closed(worker(), worker().connections.begin());
    const TimePoint deadline = worker().deadline;
    ASSERT_NE(deadline, no_deadline);
    fill_channel();
    EXPECT_FALSE(pool.hand_over(worker(), {.kind = Kind::link, .token = token}, client.get(), true));
    EXPECT_TRUE(worker().connections.empty());
    EXPECT_EQ(worker().deadline, deadline) << "a worker that hangs is killed in time";
}

TEST_F(WorkerPoolTest, ASessionThatIsOverIsNotResumed) {
    serve();
    say({.kind = Kind::ended});
    EXPECT_EQ(pool.owner(token), nullptr);
    EXPECT_NE(worker().deadline, no_deadline);
}

TEST_F(WorkerPoolTest, TheLastMessageOfAWorkerIsHandled) {
    serve();
    for (int i = 0; i < 100; ++i) {
        ASSERT_TRUE(send_control(far.get(), {.kind = Kind::claim}));
    }
    ASSERT_TRUE(send_control(far.get(), {.kind = Kind::ended}));
    far.reset();
    EXPECT_TRUE(pool.reap(pid, {}));
    EXPECT_TRUE(pool_errors.empty()) << pool_errors.front();
}

// With a device that is not a CPU, sessions leave graphs to later workers.
class WarmPool : public WorkerPoolTest {
protected:
    // The next message to the worker.
    ReceivedControl heard() {
        auto received = receive_control(far.get(), Descriptors::accept_one);
        EXPECT_TRUE(received && *received);
        return received && *received ? std::move(**received) : ReceivedControl{};
    }
    bool hears_nothing() {
        const auto received = receive_control(far.get(), Descriptors::accept_one);
        return received && !*received;
    }
    // A session that leaves graphs of `size` bytes; then its worker is the spare one again, as another one would be.
    void leave_graphs(uint64_t size) {
        be_spare(true);
        EXPECT_EQ(heard().message.kind, Kind::keep);
        ASSERT_TRUE(begin_session());
        EXPECT_EQ(heard().message.kind, Kind::session);
        say({.kind = Kind::ended, .memory_total = size});
        worker().state = State::loading;
        worker().end_reported = false;
        be_spare(true);
        EXPECT_EQ(heard().message.kind, Kind::keep);
        worker().warm_up_at = TimePoint::min();
        pool.begin_warm_ups();
    }
    ControlMessage heard_warm() {
        const ReceivedControl warm = heard();
        EXPECT_EQ(warm.message.kind, Kind::warm);
        EXPECT_TRUE(warm.attached);
        EXPECT_TRUE(worker().is_warming_up);
        return warm.message;
    }
    // As long as its warm-up may last.
    void expire() {
        worker().deadline = TimePoint::min();
        pool.kill_hanging();
    }
};

TEST_F(WarmPool, TheSpareComputesGraphsOfTheLastSession) {
    leave_graphs(1000);
    const ControlMessage warm = heard_warm();
    EXPECT_EQ(warm.memory_total, 1000u);
    say({.kind = Kind::warmed, .number = warm.number});
    EXPECT_EQ(pool.spare(), &worker());
    EXPECT_EQ(worker().deadline, no_deadline);
    EXPECT_TRUE(hears_nothing());
}

TEST_F(WarmPool, AWaitingClientStopsIt) {
    leave_graphs(1000);
    const ControlMessage warm = heard_warm();
    EXPECT_EQ(pool.spare(), nullptr);
    EXPECT_EQ(pool.spare(), nullptr);
    const ReceivedControl stop = heard();
    EXPECT_EQ(stop.message.kind, Kind::warm);
    EXPECT_FALSE(stop.attached);
    EXPECT_TRUE(hears_nothing()) << "once";
    say({.kind = Kind::warmed, .number = warm.number - 1});
    EXPECT_EQ(pool.spare(), nullptr) << "a reply to an earlier request";
    say({.kind = Kind::warmed, .number = stop.message.number});
    EXPECT_EQ(pool.spare(), &worker());
}

TEST_F(WarmPool, AWorkerThatDoesNotStopIsReplacedByOneWithoutTheseGraphs) {
    leave_graphs(1000);
    heard_warm();
    expire();
    EXPECT_EQ(worker().state, State::retired);
    worker().state = State::loading;
    worker().is_warming_up = false;
    be_spare(true);
    EXPECT_EQ(heard().message.kind, Kind::keep);
    worker().warm_up_at = TimePoint::min();
    pool.begin_warm_ups();
    EXPECT_TRUE(hears_nothing());
}

TEST_F(WarmPool, AfterSomeFailuresGraphsAreComputedNoMore) {
    for (int i = 0; i < tunable::max_warm_up_failures; ++i) {
        leave_graphs(1000);
        heard_warm();
        expire();
        worker().state = State::loading;
        worker().is_warming_up = false;
        worker().end_reported = false;
    }
    be_spare(true);
    EXPECT_TRUE(hears_nothing());
    EXPECT_EQ(pool.spare(), &worker());
}

TEST_F(WarmPool, SizesBeyondTheMemoryAreIgnored) {
    leave_graphs(uint64_t{1} << 40);
    EXPECT_TRUE(hears_nothing());
    EXPECT_EQ(pool.spare(), &worker());
}

class PoolWithoutSpare : public WorkerPoolTest {
protected:
    PoolWithoutSpare() { options.keep_spare = false; }
};

TEST_F(PoolWithoutSpare, AWorkerStartsOnceAClientNeedsOne) {
    pool.all().clear();
    pool.keep_spare();
    EXPECT_EQ(starts, 0);
    EXPECT_EQ(pool.spare(), nullptr);
    EXPECT_EQ(starts, 1);
}

TEST_F(PoolWithoutSpare, AfterASessionHasBegunNoOtherWorkerStarts) {
    serve();
    pool.keep_spare();
    EXPECT_EQ(starts, 0);
    EXPECT_EQ(worker().state, State::serving);
    worker().leave_at = Clock::now();
    pool.end_unused();
    EXPECT_EQ(worker().state, State::serving);
}

TEST_F(PoolWithoutSpare, AnUnusedWorkerEndsInTime) {
    be_spare();
    EXPECT_LE(pool.next_deadline(), Clock::now() + tunable::unused_worker_lifetime);
    pool.end_unused();
    EXPECT_EQ(worker().state, State::spare) << "a session may begin";
    worker().leave_at = Clock::now();
    pool.end_unused();
    EXPECT_EQ(worker().state, State::retired);
}

TEST_F(PoolWithoutSpare, AnUnusedWorkerAnswersBeforeItEnds) {
    be_spare();
    ASSERT_TRUE(pool.query_memory(0));
    worker().leave_at = Clock::now();
    pool.end_unused();
    EXPECT_EQ(worker().state, State::spare);
    EXPECT_GT(pool.next_deadline(), Clock::now()) << "it is waited for in poll()";
    say({.kind = Kind::memory});
    pool.end_unused();
    EXPECT_EQ(worker().state, State::retired);
}

TEST_F(WorkerPoolTest, TheSpareWorkerStays) {
    be_spare();
    EXPECT_EQ(worker().leave_at, no_deadline);
    pool.all().clear();
    pool.keep_spare();
    EXPECT_EQ(starts, 1);
}

TEST_F(WarmPool, WorkersWithCpusGetNoMemory) {
    be_spare();
    EXPECT_TRUE(hears_nothing());
}

}  // namespace
}  // namespace caravan::server
