#include "platform/log_output.h"

#include <fcntl.h>
#include <poll.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>

#include "base/counted.h"
#include "base/environment.h"
#include "base/formatted.h"

namespace caravan {
namespace {

#ifdef MSG_NOSIGNAL
constexpr int socket_flags = MSG_DONTWAIT | MSG_NOSIGNAL;
#else
constexpr int socket_flags = MSG_DONTWAIT;
#endif

bool reopen_without_blocking(int fd) {
    const int again = ::open(formatted("/proc/self/fd/{}", fd).c_str(), O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (again < 0) {
        return false;
    }
    const bool done = ::dup2(again, fd) == fd;
    ::close(again);
    return done;
}

}  // namespace

LogOutput::LogOutput(int fd) : fd_(fd) {
    struct stat status{};
    if (::fstat(fd, &status) != 0) {
        return;
    }
    is_socket_ = S_ISSOCK(status.st_mode);
    if (S_ISFIFO(status.st_mode) || ::isatty(fd) != 0) {
        may_block_ = !reopen_without_blocking(fd);
    }
    is_journal_ = formatted("{}:{}", status.st_dev, status.st_ino) == text_of(variable::journal_stream);
}

// Removes the written part from the front of `bytes`. Returns false if no more can be written now.
bool LogOutput::write_some(std::string_view & bytes) {
    pollfd ready{fd_, POLLOUT, 0};
    if (may_block_ && ::poll(&ready, 1, 0) != 1) {
        return false;
    }
    const ssize_t written = is_socket_ ? ::send(fd_, bytes.data(), bytes.size(), socket_flags)
                                       : ::write(fd_, bytes.data(), bytes.size());
    if (written < 0) {
        return errno == EINTR;
    }
    bytes.remove_prefix(static_cast<size_t>(written));
    return written > 0;
}

bool LogOutput::write_whole(std::string line) {
    std::string_view before = rest_;
    while (!before.empty()) {
        if (!write_some(before)) {
            rest_ = std::string(before);
            return false;
        }
    }
    rest_.clear();
    line += '\n';
    std::string_view bytes = line;
    while (!bytes.empty()) {
        if (!write_some(bytes)) {
            const bool has_begun = bytes.size() < line.size();
            rest_ = has_begun ? std::string(bytes) : std::string();
            return has_begun;
        }
    }
    return true;
}

void LogOutput::write(std::string_view line) {
    std::lock_guard lock(mutex_);
    if (dropped_ > 0) {
        if (!write_whole(formatted("warning: {} {} dropped: the log was not read", counted(dropped_, "log line"),
                                   dropped_ == 1 ? "was" : "were"))) {
            ++dropped_;
            return;
        }
        dropped_ = 0;
    }
    if (!write_whole(std::string(line.substr(0, max_line - 1)))) {
        ++dropped_;
    }
}

uint64_t LogOutput::dropped() const {
    std::lock_guard lock(mutex_);
    return dropped_;
}

}  // namespace caravan
