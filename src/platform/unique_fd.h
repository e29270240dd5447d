// Handles of the operating system, and their sole owner.
//
// On POSIX files, pipes and sockets are descriptors of one type. Code that holds a socket says SocketHandle, so that systems on
// which sockets have a type of their own can be supported.
#pragma once

#include <utility>

namespace caravan {

using Descriptor = int;
using SocketHandle = Descriptor;

namespace platform {

// Ignores errors. close_file() in platform/file.h reports them.
void close_descriptor(Descriptor fd);

}  // namespace platform

class UniqueFd {
public:
    UniqueFd() = default;
    explicit UniqueFd(Descriptor fd) : fd_(fd) {}
    UniqueFd(UniqueFd && other) noexcept : fd_(std::exchange(other.fd_, -1)) {}
    UniqueFd & operator=(UniqueFd && other) noexcept {
        if (this != &other) {
            reset(std::exchange(other.fd_, -1));
        }
        return *this;
    }
    ~UniqueFd() { reset(); }

    Descriptor get() const { return fd_; }
    explicit operator bool() const { return fd_ >= 0; }
    Descriptor release() { return std::exchange(fd_, -1); }
    void reset(Descriptor fd = -1) {
        if (fd_ >= 0) {
            platform::close_descriptor(fd_);
        }
        fd_ = fd;
    }

private:
    Descriptor fd_ = -1;
};

}  // namespace caravan
