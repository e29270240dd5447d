#include "server/supervisor/shared_memories.h"

#include <gtest/gtest.h>

#include <future>

#include "platform/shared_memory.h"
#include "server/worker/shared_memory_requests.h"
#include "tunables/links.h"

namespace caravan::server {
namespace {

// A worker's channel to its supervisor, without the processes.
struct Worker {
    Worker() {
        auto channel = *make_control_channel();
        process.control = std::move(channel.supervisor);
        own_end = std::move(channel.worker);
    }
    // The reply to `message`.
    ReceivedControl ask(ControlMessage message) {
        message.token = ++number;
        serve_shared_memory(process, message);
        auto reply = receive_control(own_end.get(), Descriptors::accept_one);
        EXPECT_TRUE(reply && *reply);
        EXPECT_EQ((*reply)->message.kind, ControlMessage::Kind::shared);
        EXPECT_EQ((*reply)->message.token, number);
        return std::move(**reply);
    }
    ReceivedControl share() { return ask({.kind = ControlMessage::Kind::share}); }

    WorkerProcess process;
    UniqueFd own_end;
    uint64_t number = 0;
};

ControlMessage to_open(const ControlMessage & made) {
    ControlMessage out = made;
    out.kind = ControlMessage::Kind::open_shared;
    return out;
}

std::byte & byte_of(const UniqueFd & memory, std::vector<platform::SharedMapping> & mappings) {
    mappings.push_back(*platform::SharedMapping::map(memory.get(), wire::shared_memory_size));
    return mappings.back().bytes()[wire::shared_memory_size - 1];
}

TEST(SharedMemories, AnotherWorkerOpensThemByTheirSecret) {
    Worker one, other;
    std::vector<platform::SharedMapping> mappings;
    const auto made = one.share();
    ASSERT_TRUE(made.attached) << made.message.text;
    EXPECT_TRUE(platform::check_shared_memory(made.attached.get(), wire::shared_memory_size));
    const auto opened = other.ask(to_open(made.message));
    ASSERT_TRUE(opened.attached) << opened.message.text;
    byte_of(made.attached, mappings) = std::byte{3};
    EXPECT_EQ(byte_of(opened.attached, mappings), std::byte{3});
}

TEST(SharedMemories, AreNotOpenedWithoutTheirSecret) {
    Worker one, other;
    const auto made = one.share();
    ControlMessage guess = to_open(made.message);
    guess.secret[7] ^= std::byte{1};
    const auto refused = other.ask(guess);
    EXPECT_FALSE(refused.attached);
    EXPECT_STREQ(refused.message.text, "the shared memory has another secret");
    EXPECT_NE(std::memcmp(made.message.secret, one.share().message.secret, wire::secret_size), 0);
}

TEST(SharedMemories, AreNotFoundAfterTheirRelease) {
    Worker one, other;
    const auto made = one.share();
    serve_shared_memory(one.process, {.kind = ControlMessage::Kind::unshare, .number = made.message.number});
    EXPECT_TRUE(one.process.shared_memories.empty());
    EXPECT_FALSE(other.ask(to_open(made.message)).attached);
    // Another worker's are not released.
    const auto kept = one.share();
    serve_shared_memory(other.process, {.kind = ControlMessage::Kind::unshare, .number = kept.message.number});
    EXPECT_TRUE(other.ask(to_open(kept.message)).attached);
}

TEST(SharedMemories, OtherDescriptorsOfTheSupervisorAreNotPassedOn) {
    Worker one, other;
    ControlMessage message = to_open(one.share().message);
    for (uint32_t descriptor = 0; descriptor < 64; ++descriptor) {
        message.number = descriptor;
        if (descriptor != static_cast<uint32_t>(one.process.shared_memories.front().get())) {
            EXPECT_FALSE(other.ask(message).attached) << descriptor;
        }
    }
    message.count = UINT32_MAX;
    EXPECT_FALSE(other.ask(message).attached);
}

TEST(SharedMemories, OfOneWorkerAreBounded) {
    Worker one;
    for (size_t i = 0; i < tunable::max_shared_memories; ++i) {
        const auto made = one.share();
        ASSERT_TRUE(made.attached);
        serve_shared_memory(one.process, {.kind = ControlMessage::Kind::unshare, .number = made.message.number});
    }
    EXPECT_FALSE(one.share().attached);
    Worker other;  // none is opened
    for (size_t i = 0; i < tunable::max_unopened_memories; ++i) {
        ASSERT_TRUE(other.share().attached);
    }
    EXPECT_FALSE(other.share().attached);
}

TEST(SharedMemoryRequests, ReturnWhatTheSupervisorReplies) {
    Worker worker;
    std::vector<std::future<void>> replies;
    SharedMemoryRequests * requests = nullptr;
    SharedMemoryRequests made([&](const ControlMessage & message) {
        serve_shared_memory(worker.process, message);
        if (message.kind != ControlMessage::Kind::unshare) {
            replies.push_back(std::async(std::launch::async, [&] {
                requests->on_reply(std::move(**receive_control(worker.own_end.get(), Descriptors::accept_one)));
            }));
        }
        return true;
    });
    requests = &made;
    auto memory = made.make();
    ASSERT_TRUE(memory) << memory.error().text;
    EXPECT_TRUE(made.open(memory->place));
    made.release(memory->place);
    const auto gone = made.open(memory->place);
    ASSERT_FALSE(gone);
    EXPECT_FALSE(gone.error().text.empty());
}

TEST(SharedMemoryRequests, DoNotWaitForAChannelThatIsFull) {
    SharedMemoryRequests requests([](const ControlMessage &) { return false; });
    EXPECT_EQ(requests.make().error().code, Errc::unavailable);
}

}  // namespace
}  // namespace caravan::server
