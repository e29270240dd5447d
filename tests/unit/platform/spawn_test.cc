#include "platform/spawn.h"

#include <gtest/gtest.h>
#include <signal.h>

#include "platform/child_process.h"
#include "platform/file.h"
#include "support/ask_in_child.h"

namespace caravan::platform {
namespace {

Command shell(const std::string & script) { return {.program = "/bin/sh", .arguments = {"shell", "-c", script}}; }

// Runs it to its end and returns what it prints.
std::string output_of(Command command) {
    auto pipe = make_pipe();
    if (!pipe) {
        return pipe.error().text;
    }
    command.out = pipe->write.get();
    const auto process = spawn(command);
    if (!process) {
        return process.error().text;
    }
    pipe->write.reset();
    std::string text(4096, '\0');
    size_t size = 0;
    for (Result<size_t> got = 1; got && *got > 0; size += got.value_or(0)) {
        got = read_some(pipe->read.get(), mutable_bytes(text.data() + size, text.size() - size));
    }
    text.resize(size);
    return wait_for(*process).is_success() ? text : "failed: " + text;
}

TEST(Spawn, PassesArgumentsAndTheGivenEnvironmentOnly) {
    Command command = shell("echo $0 $1 $COLOUR ${HOME-none}");
    command.arguments.insert(command.arguments.end(), {"first", "second"});
    command.environment = {"COLOUR=red"};
    EXPECT_EQ(output_of(command), "first second red none\n");
}

TEST(Spawn, InputIsEmptyOnRequest) {
    Command command = shell("read line || echo nothing");
    command.has_input = false;
    EXPECT_EQ(output_of(command), "nothing\n");
}

TEST(Spawn, FailureIsTheSystemsReason) {
    const auto process = spawn({.program = "/no/such/program", .arguments = {"program"}});
    ASSERT_FALSE(process);
    EXPECT_EQ(process.error().code, Errc::unavailable);
    EXPECT_EQ(process.error().text, "No such file or directory");
}

// In a child process, whose signals the test changes: a shell that sends itself SIGTERM and then SIGPIPE.
TEST(Spawn, ResetsSignalsOnRequest) {
    EXPECT_EQ(test::ask_in_child([] {
                  sigset_t termination;
                  sigemptyset(&termination);
                  sigaddset(&termination, SIGTERM);
                  ::sigprocmask(SIG_BLOCK, &termination, nullptr);
                  ::signal(SIGPIPE, SIG_IGN);
                  Command terminates = shell("kill -TERM $$; exit 0"), breaks = shell("kill -PIPE $$; exit 0");
                  const bool inherits = wait_for(spawn(terminates).value_or(-1)).is_success() &&
                                        wait_for(spawn(breaks).value_or(-1)).is_success();
                  terminates.resets_signals = breaks.resets_signals = true;
                  return inherits && wait_for(spawn(terminates).value_or(-1)).signal == SIGTERM &&
                         wait_for(spawn(breaks).value_or(-1)).signal == SIGPIPE;
              }),
              test::Outcome::yes);
}

}  // namespace
}  // namespace caravan::platform
