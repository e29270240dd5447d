#include "server/worker/token_connections.h"

#include "base/log.h"
#include "platform/socket.h"

namespace caravan::server {

void TokenConnections::accept(uint64_t token, UniqueFd socket, std::vector<std::byte> first, bool resumes,
                              bool shares_memory) {
    std::lock_guard lock(mutex_);
    std::erase_if(handshakes_, [](Handshake & handshake) {
        if (handshake.is_over) {
            handshake.thread.join();
        }
        return handshake.is_over;
    });
    if (closed_ || handshakes_.size() >= max_handshakes) {
        return;
    }
    Handshake & handshake = handshakes_.emplace_back();
    handshake.socket = platform::duplicate(socket.get()).value_or(UniqueFd());
    handshake.thread = std::thread(
        [this, &handshake, token, socket = std::move(socket), first = std::move(first), resumes,
         shares_memory]() mutable {
            bool is_claimed = false;
            auto accepted = net::accept_with_token(std::move(socket), first, resumes,
                                                   [&] { return is_claimed = links_.claim(token); });
            if (!accepted && is_claimed) {
                links_.unclaim(token);
            }
            std::lock_guard when_done(mutex_);
            const UniqueFd connection = std::move(handshake.socket);
            if (!accepted && accepted.error().code == Errc::closed) {
                log_debug("a peer closed its connection before it linked to this session or resumed it");
            } else if (!accepted && !closed_) {
                log_warning("a connection to link to or resume this session failed: {}", accepted.error().text);
            } else if (!closed_) {
                add(token, std::move(*accepted), resumes, shares_memory, connection.get());
            }
            handshake.is_over = true;
        });
}

void TokenConnections::add(uint64_t token, net::TokenConnection connection, bool resumes, bool shares_memory,
                           int socket) {
    if (connection.resume) {
        streams_.resume(token, std::move(connection.transport), *connection.resume, socket);
    } else {
        links_.accept(token, std::move(connection.transport), resumes, shares_memory);
    }
}

void TokenConnections::close() {
    std::list<Handshake> handshakes;
    {
        std::lock_guard lock(mutex_);
        closed_ = true;
        for (const Handshake & handshake : handshakes_) {
            platform::shut_down(handshake.socket.get());  // makes the handshake fail
        }
        handshakes.swap(handshakes_);  // the threads' references stay valid
    }
    for (Handshake & handshake : handshakes) {
        handshake.thread.join();
    }
}

}  // namespace caravan::server
