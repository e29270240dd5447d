// Round trips and an upload over Caravan's own net::Transport, negotiated as in a session. GGML_RPC_TRANSPORT=tcp or
// rdma, on the client, says which one.
#include <poll.h>

#include "base/config.h"
#include "measure.h"
#include "net/exact_io.h"
#include "net/hello.h"
#include "net/inbound.h"
#include "net/opening.h"
#include "net/server_handshake.h"
#include "net/socket.h"

using namespace caravan;

namespace {

constexpr seconds patience{30};

class Line {
public:
    explicit Line(std::unique_ptr<net::Transport> transport)
        : transport_(std::move(transport)), inbound_(*transport_, {}, patience, net::Polling::of_environment()) {}

    void send(const void * data, size_t size) {
        check(net::send_all(*transport_, {const_bytes(data, size)}, patience));
    }
    // As a session waits for the next command.
    void receive(void * data, size_t size) {
        check(inbound_.peek(1, true).transform([](ConstBytes) {}));
        check(inbound_.read_into(mutable_bytes(data, size)));
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
    net::TransportKind kind() const { return transport_->kind(); }

private:
    static void check(const Result<> & result) {
        if (!result) {
            measure::die(result.error().text);
        }
    }

    const std::unique_ptr<net::Transport> transport_;
    net::Inbound inbound_;
};

// As a server does: HELLO, then the header of the first command.
Result<std::unique_ptr<net::Transport>> accept_session(UniqueFd socket) {
    const TimePoint deadline = Clock::now() + patience;
    std::byte hello[sizeof(wire::RequestHeader) + sizeof(wire::HelloRequest)];
    if (auto got = net::receive_exact(socket.get(), hello, deadline); !got) {
        return std::unexpected(got.error());
    }
    std::byte reply[sizeof(uint64_t) + sizeof(wire::HelloReply)];
    wire::HelloReply facts{};
    facts.major = wire::stock_major;
    store(reinterpret_cast<std::byte *>(&facts.capabilities), net::own_extension());
    store(reply, uint64_t{sizeof facts});
    store(reply + sizeof(uint64_t), facts);
    std::byte first[sizeof(wire::RequestHeader)];
    auto done = net::send_exact(socket.get(), reply, deadline);
    done = done ? net::receive_exact(socket.get(), first, deadline) : done;
    if (!done) {
        return std::unexpected(done.error());
    }
    auto accepted = net::open_server(std::move(socket), first, false);
    if (!accepted) {
        return std::unexpected(accepted.error());
    }
    return std::move(accepted->transport);
}

int serve(uint16_t port) {
    auto listeners = net::listen_on("0.0.0.0", port);
    if (!listeners) {
        measure::die(listeners.error().text);
    }
    std::puts("ready");
    std::fflush(stdout);
    for (;;) {
        pollfd wait{listeners->front().fd.get(), POLLIN, 0};
        ::poll(&wait, 1, -1);
        auto socket = net::accept_socket(listeners->front().fd.get());
        if (!socket || !*socket) {
            continue;
        }
        auto transport = accept_session(std::move(*socket));
        if (!transport) {
            measure::die(transport.error().text);
        }
        Line line(std::move(*transport));
        measure::answer(line);
        // The client closes first: an RDMA connection that is closed at once may lose its last message.
        pollfd nothing{-1, 0, 0};
        ::poll(&nothing, 1, 200);
    }
}

}  // namespace

int main(int argc, char ** argv) {
    const std::string_view mode = argc > 1 ? argv[1] : "";
    if (mode == "serve" && argc == 3) {
        return serve(static_cast<uint16_t>(std::atoi(argv[2])));
    }
    if (mode != "connect" || argc < 5) {
        measure::die("usage: caravan-line serve PORT | connect HOST PORT MB [upload|download]");
    }
    net::Endpoint server{.host = argv[2], .port = static_cast<uint16_t>(std::atoi(argv[3]))};
    auto opened = net::open_client(server, true, Clock::now() + patience);
    if (!opened) {
        measure::die(opened.error().text);
    }
    Line line(std::move(opened->transport));
    if (line.kind() == net::TransportKind::tcp) {
        const wire::RequestHeader first{};  // in place of an offer
        line.send(&first, sizeof first);
    }
    measure::measure(line, static_cast<uint64_t>(std::atoi(argv[4])), argc > 5 ? argv[5] : "");
    return 0;
}
