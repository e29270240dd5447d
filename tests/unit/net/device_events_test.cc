// Asynchronous events of an RDMA device, without a device.
#ifdef GGML_RPC_RDMA
#include "net/rdma/device_events.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <deque>

#include "platform/unique_fd.h"
#include "tunables/rdma.h"

namespace caravan::net::rdma {
namespace {

std::deque<ibv_async_event> pending;
int acknowledged = 0;
bool is_gone = false;

int next_event(ibv_context *, ibv_async_event * out) {
    if (pending.empty()) {
        errno = is_gone ? EIO : EAGAIN;
        return -1;
    }
    *out = pending.front();
    pending.pop_front();
    return 0;
}

class DeviceEventsTest : public testing::Test {
protected:
    DeviceEventsTest() {
        pending.clear();
        acknowledged = 0;
        is_gone = false;
        std::array<int, 2> ends{-1, -1};
        EXPECT_EQ(::pipe(ends.data()), 0);
        reader = UniqueFd(ends[0]);
        writer = UniqueFd(ends[1]);
        context.async_fd = ends[0];
    }

    static void post(ibv_event_type type, int port = 0) {
        ibv_async_event event{};
        event.event_type = type;
        event.element.port_num = port;
        pending.push_back(event);
    }

    UniqueFd reader, writer;
    ibv_context context{};
    TimePoint now = Clock::now();
};

DeviceEvents events_of(ibv_context & context) {
    return {context, 1, {next_event, [](ibv_async_event *) { ++acknowledged; }}};
}

TEST_F(DeviceEventsTest, IgnoresWhatDoesNotAffectTheConnection) {
    DeviceEvents events = events_of(context);
    for (const ibv_event_type type : {IBV_EVENT_GID_CHANGE, IBV_EVENT_LID_CHANGE, IBV_EVENT_COMM_EST}) {
        post(type, 1);
    }
    EXPECT_FALSE(events.take(now));
    EXPECT_EQ(acknowledged, 3);
    EXPECT_EQ(events.deadline(), no_deadline);
}

TEST_F(DeviceEventsTest, ReportsWhatEndsTheConnection) {
    for (const auto & [type, words] : std::initializer_list<std::pair<ibv_event_type, const char *>>{
             {IBV_EVENT_DEVICE_FATAL, "fatal error"},
             {IBV_EVENT_QP_FATAL, "queue pair"},
             {IBV_EVENT_QP_ACCESS_ERR, "queue pair"},
             {IBV_EVENT_CQ_ERR, "completion queue"}}) {
        DeviceEvents events = events_of(context);
        post(IBV_EVENT_GID_CHANGE);
        post(type);
        const auto reason = events.take(now);
        ASSERT_TRUE(reason) << words;
        EXPECT_TRUE(reason->contains(words)) << *reason;
    }
}

TEST_F(DeviceEventsTest, ReportsADeviceThatWasRemoved) {
    DeviceEvents events = events_of(context);
    is_gone = true;
    const auto reason = events.take(now);
    ASSERT_TRUE(reason);
    EXPECT_TRUE(reason->starts_with("the RDMA device is gone")) << *reason;
}

TEST_F(DeviceEventsTest, APortMayBeDownForASecond) {
    DeviceEvents events = events_of(context);
    post(IBV_EVENT_PORT_ERR, 1);
    EXPECT_FALSE(events.take(now));
    EXPECT_EQ(events.deadline(), now + tunable::rdma_port_patience);
    EXPECT_FALSE(events.take(now + tunable::rdma_port_patience - milliseconds(1)));
    post(IBV_EVENT_PORT_ERR, 1);  // again, while it is down: the first one counts
    const auto reason = events.take(now + tunable::rdma_port_patience);
    ASSERT_TRUE(reason);
    EXPECT_EQ(*reason, "port 1 of the RDMA device has been down for 1 s");
}

TEST_F(DeviceEventsTest, APortThatReturnsInTimeIsNoFault) {
    DeviceEvents events = events_of(context);
    post(IBV_EVENT_PORT_ERR, 1);
    EXPECT_FALSE(events.take(now));
    post(IBV_EVENT_PORT_ACTIVE, 1);
    EXPECT_FALSE(events.take(now + milliseconds(500)));
    EXPECT_EQ(events.deadline(), no_deadline);
    EXPECT_FALSE(events.take(now + seconds(10)));
}

TEST_F(DeviceEventsTest, OtherPortsDoNotMatter) {
    DeviceEvents events = events_of(context);
    post(IBV_EVENT_PORT_ERR, 2);
    EXPECT_FALSE(events.take(now));
    EXPECT_EQ(events.deadline(), no_deadline);
    post(IBV_EVENT_PORT_ERR, 1);
    EXPECT_FALSE(events.take(now));
    post(IBV_EVENT_PORT_ACTIVE, 2);
    EXPECT_FALSE(events.take(now));
    EXPECT_EQ(events.deadline(), now + tunable::rdma_port_patience);
}

}  // namespace
}  // namespace caravan::net::rdma
#endif
