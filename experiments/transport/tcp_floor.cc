// Round trips and an upload over plain TCP: the baseline for Caravan's TCP transport. Waits like Caravan: polls
// for GGML_RPC_POLL_US with sched_yield, then sleeps in poll.
#include <arpa/inet.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cerrno>

#include "measure.h"

namespace {

class Line {
public:
    explicit Line(int fd) : fd_(fd) {
        const int on = 1;
        ::setsockopt(fd_, IPPROTO_TCP, TCP_NODELAY, &on, sizeof on);
    }
    ~Line() { ::close(fd_); }
    Line(const Line &) = delete;
    Line & operator=(const Line &) = delete;

    void send(const void * data, size_t size) {
        move(size, POLLOUT, [&](size_t done) {
            return ::send(fd_, static_cast<const char *>(data) + done, size - done, MSG_DONTWAIT | MSG_NOSIGNAL);
        });
    }
    void receive(void * data, size_t size) {
        move(size, POLLIN, [&](size_t done) {
            return ::recv(fd_, static_cast<char *>(data) + done, size - done, MSG_DONTWAIT);
        });
    }
    void upload(uint64_t size) {
        const std::vector<char> data(measure::piece, 'x');
        for (uint64_t done = 0; done < size; done += data.size()) {
            send(data.data(), data.size());
        }
    }
    void take_upload(uint64_t size) {
        std::vector<char> data(measure::piece);
        for (uint64_t done = 0; done < size; done += data.size()) {
            receive(data.data(), data.size());
        }
    }

private:
    template <class Call>
    void move(size_t size, short event, Call call) {
        auto spin_end = measure::Clock::now() + measure::spin;
        for (size_t done = 0; done < size;) {
            const ssize_t moved = call(done);
            if (moved > 0) {
                done += static_cast<size_t>(moved);
                spin_end = measure::Clock::now() + measure::spin;
            } else if (moved == 0 || (errno != EAGAIN && errno != EINTR)) {
                measure::die("the TCP connection ended");
            } else if (measure::Clock::now() < spin_end) {
                ::sched_yield();
            } else {
                pollfd wait{fd_, event, 0};
                ::poll(&wait, 1, -1);
            }
        }
    }

    int fd_;
};

}  // namespace

int main(int argc, char ** argv) {
    const std::string_view mode = argc > 1 ? argv[1] : "";
    sockaddr_in address{};
    address.sin_family = AF_INET;
    const int fd = ::socket(AF_INET, SOCK_STREAM, 0);
    const int on = 1;
    ::setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
    if (mode == "serve" && argc == 3) {
        address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[2])));
        if (::bind(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0 || ::listen(fd, 4) != 0) {
            measure::die("cannot listen");
        }
        std::puts("ready");
        std::fflush(stdout);
        for (;;) {
            Line line(::accept(fd, nullptr, nullptr));
            measure::answer(line);
        }
    }
    if (mode == "connect" && argc == 5) {
        address.sin_port = htons(static_cast<uint16_t>(std::atoi(argv[3])));
        ::inet_pton(AF_INET, argv[2], &address.sin_addr);
        if (::connect(fd, reinterpret_cast<sockaddr *>(&address), sizeof address) != 0) {
            measure::die("cannot connect");
        }
        Line line(fd);
        measure::measure(line, static_cast<uint64_t>(std::atoi(argv[4])));
        return 0;
    }
    measure::die("usage: tcp-floor serve PORT | connect IPV4 PORT MB");
}
