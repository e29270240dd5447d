// The line between the supervisor and a worker, which may have fallen to its client.
#include "server/ipc/control.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <iterator>

namespace caravan::server {
namespace {

class Control : public testing::Test {
protected:
    Control() {
        int fds[2];
        EXPECT_EQ(::socketpair(AF_UNIX, SOCK_STREAM, 0, fds), 0);
        near.reset(fds[0]);
        far.reset(fds[1]);
        ::fcntl(near.get(), F_SETFL, O_NONBLOCK);
    }

    UniqueFd near, far;
};

TEST_F(Control, NothingIsThereYet) {
    const auto received = receive_control(near.get(), Descriptors::accept_one);
    ASSERT_TRUE(received) << received.error().text;
    EXPECT_FALSE(*received);
}

TEST_F(Control, AMessageWithADescriptor) {
    int pipe[2];
    ASSERT_EQ(::pipe(pipe), 0);
    const UniqueFd read_end(pipe[0]);
    UniqueFd write_end(pipe[1]);
    ControlMessage message{.kind = ControlMessage::Kind::session, .number = 7, .token = 9};
    message.set_text("10.0.0.2:1");
    ASSERT_TRUE(send_control(far.get(), message, write_end.get()));
    write_end.reset();

    auto received = receive_control(near.get(), Descriptors::accept_one);
    ASSERT_TRUE(received && *received);
    EXPECT_EQ((*received)->message.kind, ControlMessage::Kind::session);
    EXPECT_EQ((*received)->message.number, 7u);
    EXPECT_EQ((*received)->message.token, 9u);
    EXPECT_STREQ((*received)->message.text, "10.0.0.2:1");
    const int attached = (*received)->attached.get();
    EXPECT_EQ(::fcntl(attached, F_GETFD), FD_CLOEXEC) << "later workers must not have it";
    EXPECT_EQ(::write(attached, "x", 1), 1);
    char byte = 0;
    EXPECT_EQ(::read(read_end.get(), &byte, 1), 1);
    EXPECT_EQ(byte, 'x');
}

// A worker that hangs, or has fallen to its client: what is on its way to it holds few of the server's descriptors.
TEST(ControlChannel, APeerThatDoesNotReadHoldsFewDescriptors) {
    auto line = make_control_channel();
    ASSERT_TRUE(line) << line.error().text;
    const UniqueFd attached(::open("/dev/null", O_RDONLY | O_CLOEXEC));
    const ControlMessage message{.kind = ControlMessage::Kind::link};
    int on_their_way = 0;
    while (on_their_way < 1000 && send_control(line->supervisor.get(), message, attached.get())) {
        ++on_their_way;
    }
    EXPECT_GE(on_their_way, 10) << "a worker that is busy for a moment loses none";
    EXPECT_LE(on_their_way, 40);
    EXPECT_FALSE(send_control(line->supervisor.get(), message, attached.get()));
    // There is room again when it reads: everything at once, in order and whole.
    for (int i = 0; i < on_their_way; ++i) {
        const auto received = receive_control(line->worker.get(), Descriptors::accept_one);
        ASSERT_TRUE(received && *received) << i;
        EXPECT_TRUE((*received)->attached) << i;
    }
    EXPECT_TRUE(send_control(line->supervisor.get(), message, attached.get()));
}

// Where the kernel can refuse it (Linux 6.16).
TEST(ControlChannel, AWorkerAttachesNothing) {
    constexpr int pass_rights = 83;
    int pair[2];
    ASSERT_EQ(::socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
    const UniqueFd near(pair[0]), far(pair[1]);
    const int no = 0;
    const bool can_refuse = ::setsockopt(near.get(), SOL_SOCKET, pass_rights, &no, sizeof no) == 0;
    const auto line = make_control_channel();
    ASSERT_TRUE(line) << line.error().text;
    EXPECT_EQ(send_control(line->worker.get(), ControlMessage{}, near.get()), !can_refuse);
    EXPECT_TRUE(send_control(line->worker.get(), ControlMessage{}));
}

// Of this process.
size_t open_descriptors() {
    return static_cast<size_t>(std::distance(std::filesystem::directory_iterator("/proc/self/fd"), {}));
}

// A message with two descriptors, which no server or worker sends.
bool send_two_descriptors(int fd) {
    ControlMessage message;
    iovec part{&message, sizeof message};
    alignas(cmsghdr) char space[CMSG_SPACE(2 * sizeof(int))] = {};
    msghdr header{};
    header.msg_iov = &part;
    header.msg_iovlen = 1;
    header.msg_control = space;
    header.msg_controllen = sizeof space;
    cmsghdr * rights = CMSG_FIRSTHDR(&header);
    rights->cmsg_level = SOL_SOCKET;
    rights->cmsg_type = SCM_RIGHTS;
    rights->cmsg_len = CMSG_LEN(2 * sizeof(int));
    const int standard[] = {1, 2};
    std::memcpy(CMSG_DATA(rights), standard, sizeof standard);
    return ::sendmsg(fd, &header, 0) == static_cast<ssize_t>(sizeof message);
}

TEST_F(Control, DescriptorsThatAreTooManyAreClosed) {
    const size_t before = open_descriptors();
    for (const auto wanted : {Descriptors::accept_one, Descriptors::refuse}) {
        ASSERT_TRUE(send_two_descriptors(far.get()));
        const auto received = receive_control(near.get(), wanted);
        ASSERT_TRUE(received && *received);
        EXPECT_EQ((*received)->attached.get() >= 0, wanted == Descriptors::accept_one);
        EXPECT_EQ(open_descriptors(), before + (wanted == Descriptors::accept_one ? 1 : 0));
    }
    EXPECT_EQ(open_descriptors(), before);
}

TEST_F(Control, TextsEnd) {
    ControlMessage message;
    std::memset(message.text, 'x', sizeof message.text);
    ASSERT_TRUE(send_control(far.get(), message));
    const auto received = receive_control(near.get(), Descriptors::accept_one);
    ASSERT_TRUE(received && *received);
    EXPECT_EQ(std::strlen((*received)->message.text), sizeof message.text - 1);

    message.set_text(std::string(1000, 'y'));
    EXPECT_EQ(std::string(message.text), std::string(sizeof message.text - 1, 'y'));
}

TEST_F(Control, AnEndedProcessIsToldFromASilentOne) {
    far.reset();
    EXPECT_FALSE(send_control(near.get(), {}));
    const auto received = receive_control(near.get(), Descriptors::accept_one);
    ASSERT_FALSE(received);
    EXPECT_EQ(received.error().code, Errc::closed);
}

TEST_F(Control, APartOfAMessageIsNone) {
    const ControlMessage message;
    ASSERT_EQ(::write(far.get(), &message, sizeof message - 1), static_cast<ssize_t>(sizeof message - 1));
    const auto received = receive_control(near.get(), Descriptors::accept_one);
    ASSERT_FALSE(received);
    EXPECT_EQ(received.error().code, Errc::protocol);
}

// The supervisor must go on though a worker reads nothing.
TEST_F(Control, ALineThatIsFullIsNotWaitedFor) {
    int sent = 0;
    while (sent < 100'000 && send_control(near.get(), {})) {
        ++sent;
    }
    EXPECT_GT(sent, 50);
    EXPECT_LT(sent, 100'000);
}

}  // namespace
}  // namespace caravan::server
