#include "server/ipc/comm_port.h"

#include <gtest/gtest.h>

#include <vector>

#include "support/tcp_pair.h"

namespace caravan::server {
namespace {

using Step = ControlMessage::Step;

struct Port {
    ControlMessage reply_to(const ControlMessage & question, uint32_t count = 1) {
        return {.kind = ControlMessage::Kind::comm, .step = question.step, .number = question.number, .count = count};
    }
    std::vector<ControlMessage> asked;
    bool is_answered = true;
    CommPort port{[this](const ControlMessage & question) {
        asked.push_back(question);
        if (question.step == Step::reserve && is_answered) {
            port.on_reply(reply_to(question), UniqueFd());
        }
        return true;
    }};
};

TEST(CommPort, RefusalHasTheSupervisorsReason) {
    Port comm;
    comm.is_answered = false;
    CommPort refusing([&](const ControlMessage & question) {
        ControlMessage reply = comm.reply_to(question, 0);
        reply.set_text("another session has it");
        refusing.on_reply(reply, UniqueFd());
        return true;
    });
    const auto reserved = refusing.reserve();
    ASSERT_FALSE(reserved);
    EXPECT_EQ(reserved.error().text, "another session has it");
}

TEST(CommPort, OneRequestWaitsThroughSeveralCalls) {
    Port comm;
    ASSERT_TRUE(comm.port.reserve());
    EXPECT_FALSE(*comm.port.accept(17, Clock::now()));
    EXPECT_FALSE(*comm.port.accept(17, Clock::now()));
    ASSERT_EQ(comm.asked.size(), 2u);
    EXPECT_EQ(comm.asked.back().port, 17u);
    test::TcpPair pair;
    comm.port.on_reply(comm.reply_to(comm.asked.back()), std::move(pair.near));
    EXPECT_TRUE(*comm.port.accept(17, Clock::now()));
    EXPECT_FALSE(*comm.port.accept(17, Clock::now()));
    EXPECT_EQ(comm.asked.size(), 3u) << "the next connection needs another request";
}

// It may belong to another client.
TEST(CommPort, LateConnectionIsDropped) {
    Port comm;
    EXPECT_FALSE(*comm.port.accept(17, Clock::now()));
    const ControlMessage question = comm.asked.back();
    comm.port.stop_accepting();
    test::TcpPair pair;
    comm.port.on_reply(comm.reply_to(question), std::move(pair.near));
    EXPECT_FALSE(*comm.port.accept(17, Clock::now()));
    test::WirePeer late(std::move(pair.far));
    EXPECT_TRUE(test::hangs_up(late));
}

}  // namespace
}  // namespace caravan::server
