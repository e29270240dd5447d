#include "client/session/end_program.h"

#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cstdio>
#include <functional>

#include "platform/unique_fd.h"

namespace caravan::client {
namespace {

struct Ended {
    int code = -1;
    std::string out, err;
};

std::string all_from(int fd) {
    std::string text;
    char piece[256];
    for (ssize_t got; (got = ::read(fd, piece, sizeof piece)) > 0;) {
        text.append(piece, static_cast<size_t>(got));
    }
    return text;
}

// Runs `program` in a child process.
Ended ended_by(const std::function<void()> & program) {
    int out[2], err[2];
    EXPECT_TRUE(::pipe(out) == 0 && ::pipe(err) == 0);
    std::fflush(stdout);  // else the child writes it too
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(20);
        ::dup2(out[1], STDOUT_FILENO);
        ::dup2(err[1], STDERR_FILENO);
        program();
        ::_exit(99);
    }
    const UniqueFd from_out(out[0]), from_err(err[0]);
    ::close(out[1]);
    ::close(err[1]);
    Ended ended;
    ended.err = all_from(err[0]);
    ended.out = all_from(out[0]);
    int status = 0;
    ::waitpid(child, &status, 0);
    ended.code = WIFEXITED(status) ? WEXITSTATUS(status) : -1;
    return ended;
}

TEST(EndProgram, FlushesTextAndPrintsTheReason) {
    const Ended ended = ended_by([] {
        std::setvbuf(stdout, nullptr, _IOFBF, 4096);
        std::fputs("generated so far", stdout);
        end_program("RPC server a:1 is lost");
    });
    EXPECT_EQ(ended.code, 75);
    EXPECT_EQ(ended.out, "generated so far");
    EXPECT_EQ(ended.err, "error: RPC server a:1 is lost: the program ends with code 75\n");
}

}  // namespace
}  // namespace caravan::client
