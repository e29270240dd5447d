#include "platform/spawn.h"

#include <fcntl.h>
#include <spawn.h>
#include <unistd.h>

#include "platform/posix/spawn_with.h"

namespace caravan::platform {
namespace {

std::vector<char *> pointers(std::vector<std::string> & words) {
    std::vector<char *> out;
    for (std::string & word : words) {
        out.push_back(word.data());
    }
    out.push_back(nullptr);
    return out;
}

void set_streams(posix_spawn_file_actions_t & actions, const Command & command) {
    if (!command.has_input) {
        posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    }
    if (command.out >= 0) {
        posix_spawn_file_actions_adddup2(&actions, command.out, STDOUT_FILENO);
    }
    if (command.err >= 0) {
        posix_spawn_file_actions_adddup2(&actions, command.err, STDERR_FILENO);
    }
}

void set_signals(posix_spawnattr_t & attributes, const Command & command, const sigset_t & blocked) {
    if (!command.resets_signals) {
        posix_spawnattr_setsigmask(&attributes, &blocked);
        posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK);
        return;
    }
    sigset_t none, defaults;
    sigemptyset(&none);
    sigemptyset(&defaults);
    for (const int signal : {SIGTERM, SIGINT, SIGCHLD, SIGPIPE}) {
        sigaddset(&defaults, signal);
    }
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &defaults);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
}

}  // namespace

Result<ProcessId> spawn_with(const Command & command, const sigset_t & blocked) {
    std::vector<std::string> arguments = command.arguments, environment = command.environment;
    posix_spawn_file_actions_t actions;
    posix_spawn_file_actions_init(&actions);
    set_streams(actions, command);
    posix_spawnattr_t attributes;
    posix_spawnattr_init(&attributes);
    set_signals(attributes, command, blocked);
    pid_t id = -1;
    const int error = ::posix_spawn(&id, command.program.c_str(), &actions, &attributes, pointers(arguments).data(),
                                    pointers(environment).data());
    posix_spawnattr_destroy(&attributes);
    posix_spawn_file_actions_destroy(&actions);
    return error == 0 ? Result<ProcessId>(id) : fail(Errc::unavailable, "{}", errno_text(error));
}

Result<ProcessId> spawn(const Command & command) {
    sigset_t blocked;
    sigemptyset(&blocked);
    ::pthread_sigmask(SIG_SETMASK, nullptr, &blocked);
    return spawn_with(command, blocked);
}

}  // namespace caravan::platform
