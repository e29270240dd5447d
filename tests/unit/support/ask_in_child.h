// Runs code that may crash, or that changes its process, in a child process.
#pragma once

#include <fcntl.h>
#include <sys/wait.h>
#include <unistd.h>

#include <functional>

namespace caravan::test {

enum class Outcome { yes, no, died };

// Runs `question` in a child process without output, for at most 10 s, and returns its result.
inline Outcome ask_in_child(const std::function<bool()> & question) {
    const pid_t child = ::fork();
    if (child == 0) {
        const int null = ::open("/dev/null", O_WRONLY);
        ::dup2(null, 1);
        ::dup2(null, 2);
        ::alarm(10);
        ::_exit(question() ? 0 : 3);
    }
    int status = 0;
    ::waitpid(child, &status, 0);
    if (WIFEXITED(status) && (WEXITSTATUS(status) == 0 || WEXITSTATUS(status) == 3)) {
        return WEXITSTATUS(status) == 0 ? Outcome::yes : Outcome::no;
    }
    return Outcome::died;
}

}  // namespace caravan::test
