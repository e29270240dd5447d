// Connections that present a token of this worker: they open a link to its session, or resume the session or a link.
#pragma once

#include <list>
#include <mutex>
#include <thread>
#include <vector>

#include "net/server_handshake.h"
#include "platform/unique_fd.h"
#include "server/links/links.h"
#include "server/worker/resumption_table.h"

namespace caravan::server {

class TokenConnections {
public:
    static constexpr size_t max_handshakes = 2 * Links::max_links;  // at the same time

    TokenConnections(Links & links, ResumptionTable & streams) : links_(links), streams_(streams) {}
    ~TokenConnections() { close(); }
    TokenConnections(const TokenConnections &) = delete;

    // Completes the handshake on a new thread. `first`: bytes that were already received. `resumes`: the peer supports
    // resuming. `shares_memory`: as for Links::accept(). Drops the connection after close() or if there are too many
    // handshakes. Called by one thread.
    void accept(uint64_t token, UniqueFd socket, std::vector<std::byte> first, bool resumes, bool shares_memory = false);
    // Aborts the handshakes and joins their threads, within the handshake's deadlines. No thread uses `links` or `streams` when
    // this returns.
    void close();

private:
    // A connection whose handshake is in progress.
    struct Handshake {
        UniqueFd socket;  // a duplicate, to abort the handshake; none when it is over
        bool is_over = false;
        std::thread thread;
    };
    void add(uint64_t token, net::TokenConnection connection, bool resumes, bool shares_memory,
             int socket);  // with mutex_ held

    Links & links_;
    ResumptionTable & streams_;
    std::mutex mutex_;  // guards the members below
    std::list<Handshake> handshakes_;
    bool closed_ = false;
};

}  // namespace caravan::server
