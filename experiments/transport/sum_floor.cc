// The bare exchange below an all-reduce of two ranks: each of two processes sends its floats over TCP, receives the other's,
// and adds them, spinning. Prints for each size of the command line: bytes, median microseconds.
//
//     sum-floor SIZE...
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <chrono>
#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

constexpr int batch = 16, rounds = 101;

[[noreturn]] void die(const char * what) {
    std::perror(what);
    std::exit(1);
}

int listener(sockaddr_in & address) {
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    address.sin_family = AF_INET;
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    socklen_t size = sizeof address;
    if (fd < 0 || ::bind(fd, reinterpret_cast<sockaddr *>(&address), size) != 0 || ::listen(fd, 1) != 0 ||
        ::getsockname(fd, reinterpret_cast<sockaddr *>(&address), &size) != 0) {
        die("listen");
    }
    return fd;
}

// Blocks only if the peer sends nothing for a second: it has ended.
void add_up(int fd, std::vector<float> & own, std::vector<float> & other) {
    const size_t size = own.size() * sizeof(float);
    for (size_t sent = 0, received = 0; sent < size || received < size;) {
        bool has_moved = false;
        if (sent < size) {
            const ssize_t moved =
                ::send(fd, reinterpret_cast<const char *>(own.data()) + sent, size - sent, MSG_DONTWAIT | MSG_NOSIGNAL);
            has_moved = moved > 0;
            sent += moved > 0 ? static_cast<size_t>(moved) : 0;
        }
        if (received < size) {
            const ssize_t moved = ::recv(fd, reinterpret_cast<char *>(other.data()) + received, size - received, MSG_DONTWAIT);
            if (moved == 0 || (moved < 0 && errno != EAGAIN && errno != EINTR)) {
                die("the other process");
            }
            has_moved = has_moved || moved > 0;
            received += moved > 0 ? static_cast<size_t>(moved) : 0;
        }
        if (!has_moved) {
            ::sched_yield();
        }
    }
    for (size_t i = 0; i < own.size(); ++i) {
        own[i] += other[i];
    }
}

double median_us(int fd, size_t size) {
    std::vector<float> own(size / sizeof(float)), other(own.size());
    std::vector<double> times;
    for (int round = 0; round < rounds; ++round) {
        const auto begin = std::chrono::steady_clock::now();
        for (int i = 0; i < batch; ++i) {
            add_up(fd, own, other);
        }
        times.push_back(std::chrono::duration<double, std::micro>(std::chrono::steady_clock::now() - begin).count() / batch);
    }
    std::ranges::nth_element(times, times.begin() + rounds / 2);
    return times[rounds / 2];
}

}  // namespace

int main(int argc, char ** argv) {
    sockaddr_in address{};
    const int waiting = listener(address);
    const pid_t child = ::fork();
    int fd = -1;
    if (child == 0) {
        fd = ::socket(AF_INET, SOCK_STREAM, 0);
        if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
            die("connect");
        }
    } else {
        fd = ::accept(waiting, nullptr, nullptr);
    }
    const int on = 1;
    ::setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    for (int i = 1; i < argc; ++i) {
        const size_t size = std::strtoul(argv[i], nullptr, 10);
        const double us = median_us(fd, size);
        if (child != 0) {
            std::printf("%zu %.2f\n", size, us);
        }
    }
    ::close(fd);
    if (child != 0) {
        ::waitpid(child, nullptr, 0);
    }
    return 0;
}
