// Serves one client from HELLO to the end of the connection: reads the frame of each command and passes the command to the
// stock or the native dialect. One thread calls run().
#pragma once

#include <atomic>
#include <string>

#include "server/session/native_dialect.h"
#include "server/session/session_context.h"
#include "server/session/stock_dialect.h"

namespace caravan::server {

class Session {
public:
    // `already`: bytes of the first command that were already received. `weights`, `links` and `machine` may be null; all must
    // outlive the session. `max_memory`: limit of MemoryBudget, bytes. `machine` grants memory of CPU devices.
    Session(net::Transport & transport, ConstBytes already, Devices & devices, cache::Weights * weights, Links * links,
            uint64_t max_memory = MemoryBudget::no_limit, MachineMemory * machine = nullptr);

    // Serves commands until the client leaves (Errc::closed or Errc::reset) or a command fails. Returns the reason.
    Error run();

    // Ends the session when the client sends no command for `limit`; 0: never. Thread-safe.
    void limit_silence(seconds limit) { context_.in.limit_silence(limit); }

    // True if the session allocated a buffer or launched a graph.
    bool did_work() const { return context_.buffers.peak_bytes() > 0 || context_.runs.launches() > 0; }
    // For the log: "12 graphs computed 640 times, 97 MiB in, 2 MiB out, at most 530 MiB of buffers; 34.0 s, 21.5 s
    // computing (29.8 launches/s); weights: 96 MiB received, 400 MiB from the cache, 0 MiB from model files".
    std::string summary() const;
    // The name of the command that is being served, or null between commands. Thread-safe.
    const char * command() const { return command_.load(std::memory_order_relaxed); }

private:
    Result<> serve_one();
    Dialect & dialect_of(wire::Command command);
    void report_host_memory();
    void log_silence(TimePoint since) const;

    const TimePoint begin_ = Clock::now();
    std::atomic<const char *> command_ = nullptr;
    SessionContext context_;
    NativeDialect native_;
    StockDialect stock_;
};

}  // namespace caravan::server
