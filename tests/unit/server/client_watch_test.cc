#include "server/worker/client_watch.h"

#include <gtest/gtest.h>
#include <sys/socket.h>

#include <future>
#include <semaphore>

#include "support/wire_peer.h"

namespace caravan::server {
namespace {

using net::ResumableTransport;

constexpr uint64_t token = 7;

std::unique_ptr<net::Transport> transport_of(UniqueFd fd) {
    net::set_non_blocking(fd.get(), true);
    return *net::make_socket_transport(std::move(fd));
}

// A session's watch, whose client and supervisor are the test.
class ClientWatchTest : public testing::Test {
protected:
    void start(uint64_t session_token, milliseconds farewell = seconds(60)) {
        auto pair = test::socket_pair();
        client = std::move(pair.far);
        auto control = test::socket_pair();
        supervisor = std::move(control.far);
        worker = std::move(control.near);
        stream.emplace(transport_of(UniqueFd(::dup(pair.near.get()))), ResumableTransport::Options{.name = "a client"});
        if (session_token != 0) {
            streams.add(session_token, *stream);
        }
        auto started = ClientWatch::start(std::move(pair.near), worker.get(), session_token, streams,
                                          {.on_supervisor =
                                               [this](ClientWatch & self) {
                                                   char byte = 0;
                                                   (void)!::recv(worker.get(), &byte, 1, 0);
                                                   if (lifeline) {
                                                       self.add_lifeline(lifeline_token, std::move(lifeline));
                                                   }
                                                   handled.release();
                                               },
                                           .on_left = [this] { left.set_value(); },
                                           .on_overdue = [this] { overdue.set_value(); }},
                                          farewell);
        ASSERT_TRUE(started);
        watch = std::move(*started);
    }
    // Returns when the watch has handled a message of the supervisor.
    void send_message() {
        ASSERT_EQ(::send(supervisor.get(), "", 1, 0), 1);
        ASSERT_TRUE(handled.try_acquire_for(test::patience));
    }
    // The far end of a lifeline of `of`.
    UniqueFd open_lifeline(uint64_t of) {
        auto pair = test::socket_pair();
        lifeline_token = of;
        lifeline = std::move(pair.near);
        send_message();
        return std::move(pair.far);
    }
    static bool is_ready(const std::future<void> & future) {
        return future.wait_for(test::patience) == std::future_status::ready;
    }

    ResumptionTable streams;
    std::optional<ResumableTransport> stream;
    UniqueFd client, supervisor, worker, lifeline;
    uint64_t lifeline_token = 0;
    std::promise<void> left, overdue;
    std::counting_semaphore<> handled{0};  // messages
    std::future<void> has_left = left.get_future(), is_overdue = overdue.get_future();
    std::unique_ptr<ClientWatch> watch;  // destroyed first
};

TEST_F(ClientWatchTest, ReportsAClientThatClosesItsConnection) {
    start(0);
    send_message();
    EXPECT_EQ(has_left.wait_for(seconds(0)), std::future_status::timeout);
    client.reset();
    EXPECT_TRUE(is_ready(has_left));
}

TEST_F(ClientWatchTest, ReportsASessionThatDoesNotEndAfterItsClientLeft) {
    start(0, milliseconds(1));
    client.reset();
    EXPECT_TRUE(is_ready(is_overdue));
}

TEST_F(ClientWatchTest, EndsWithoutWaitingForTheFarewell) {
    start(0, seconds(60));
    client.reset();
    ASSERT_TRUE(is_ready(has_left));
    const TimePoint begin = Clock::now();
    watch.reset();
    EXPECT_LT(Clock::now() - begin, seconds(30));
    EXPECT_EQ(is_overdue.wait_for(seconds(0)), std::future_status::timeout);
}

TEST_F(ClientWatchTest, ABrokenConnectionOfASessionThatCanBeResumedIsNotTheEnd) {
    start(token);
    client.reset();
    send_message();  // handled by the same thread
    send_message();
    EXPECT_EQ(has_left.wait_for(seconds(0)), std::future_status::timeout);
}

TEST_F(ClientWatchTest, AnOrderlyEndIsTheEndUnlessALifelineShowsTheProcess) {
    start(token);
    const UniqueFd far = open_lifeline(token);
    ::shutdown(client.get(), SHUT_WR);
    send_message();
    send_message();
    EXPECT_EQ(has_left.wait_for(seconds(0)), std::future_status::timeout);
    watch.reset();

    start(token);
    ::shutdown(client.get(), SHUT_WR);
    EXPECT_TRUE(is_ready(has_left));
}

TEST_F(ClientWatchTest, TheEndOfTheLifelineIsTheExitOfTheClient) {
    start(token);
    UniqueFd far = open_lifeline(token);
    client.reset();
    send_message();
    send_message();
    ASSERT_EQ(has_left.wait_for(seconds(0)), std::future_status::timeout);
    far.reset();
    EXPECT_TRUE(is_ready(has_left));
}

TEST_F(ClientWatchTest, LifelinesOfUnknownStreamsAreDropped) {
    start(token);
    const UniqueFd far = open_lifeline(token + 1);
    char byte = 0;
    EXPECT_EQ(::recv(far.get(), &byte, 1, MSG_DONTWAIT), 0);
}

}  // namespace
}  // namespace caravan::server
