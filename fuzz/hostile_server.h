// A server that sends the same bytes on every connection, whatever the client requests, and then ends sending.
#pragma once

#include <poll.h>
#include <unistd.h>

#include <filesystem>
#include <mutex>
#include <thread>
#include <vector>

#include "kit.h"
#include "net/socket.h"

namespace caravan::fuzz {

class HostileServer {
public:
    HostileServer() {
        std::string folder = (std::filesystem::temp_directory_path() / "caravan-fuzz-XXXXXX").string();
        require(::mkdtemp(folder.data()) != nullptr, "a temporary directory can be created");
        folder_ = folder;
        auto listeners = net::listen_on("unix:" + folder + "/server", 0);
        require(listeners.has_value(), "a Unix socket can listen");
        listener_ = std::move(listeners->front());
        std::thread([this] { serve(); }).detach();  // runs until the process exits
    }
    ~HostileServer() {
        std::error_code error;
        std::filesystem::remove_all(folder_, error);
    }

    const net::Endpoint & endpoint() const { return listener_.endpoint; }
    // The bytes to send on connections accepted from now on.
    void reply_with(ConstBytes bytes) {
        std::lock_guard lock(mutex_);
        bytes_.assign(bytes.begin(), bytes.end());
    }

private:
    void serve() {
        for (;;) {
            pollfd listening{listener_.fd.get(), POLLIN, 0};
            if (::poll(&listening, 1, -1) < 0) {
                continue;
            }
            auto accepted = net::accept_socket(listener_.fd.get());
            if (!accepted || !*accepted) {
                continue;
            }
            std::vector<std::byte> bytes;
            {
                std::lock_guard lock(mutex_);
                bytes = bytes_;
            }
            (void)!::send(accepted->get(), bytes.data(), bytes.size(), MSG_NOSIGNAL);  // fits into the socket's buffer
            ::shutdown(accepted->get(), SHUT_WR);
            clients_.push_back(std::move(*accepted));
            drop_closed_connections();
        }
    }

    // Nothing is ever read from a client, so it can send no more than the socket buffers.
    void drop_closed_connections() {
        std::erase_if(clients_, [](const UniqueFd & client) {
            pollfd state{client.get(), POLLRDHUP, 0};
            return ::poll(&state, 1, 0) > 0 && (state.revents & (POLLRDHUP | POLLHUP | POLLERR)) != 0;
        });
    }

    std::filesystem::path folder_;
    net::Listener listener_;
    std::mutex mutex_;
    std::vector<std::byte> bytes_;
    std::vector<UniqueFd> clients_;
};

}  // namespace caravan::fuzz
