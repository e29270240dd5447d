// Serves one client from HELLO to the end of the connection: reads the frame of each command and passes the command to the
// stock or the native dialect. One thread calls run().
#pragma once

#include <atomic>
#include <functional>
#include <string>

#include "server/ipc/session_counters.h"
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

    // Called when the first command arrives, by the thread of run(). Set it before.
    std::function<void()> on_first_command;
    // False: the client has not announced the native dialect, and a command of it ends the session. Set it before run().
    bool accepts_native = true;
    // Lets a stock client connect this server with another one (COMM_INIT). Set it before run(); `pairing` must outlive this.
    void use_pairing(StockPairing & pairing) { context_.pairing = &pairing; }
    // Ends the session when the client sends no command for `limit`, or one waits for so long for another server; 0: never.
    // Thread-safe.
    void limit_silence(seconds limit);

    SessionCounters counters() const;
    // After run(): the graphs of a native client that GPUs and the like have computed (encode_warm_graphs()).
    std::vector<std::byte> encode_graphs(size_t limit) const {
        return encode_warm_graphs(native_.graphs().graphs_of_accelerators(), limit);
    }
    // The name of the command that is being served, or null between commands. Thread-safe.
    const char * command() const { return command_.load(std::memory_order_relaxed); }

private:
    Result<> serve_one();
    Dialect & dialect_of(wire::Command command);
    Result<> finish_launch();
    void report_host_memory();
    void log_silence(TimePoint since) const;

    const TimePoint begin_ = Clock::now();
    std::atomic<const char *> command_ = nullptr;
    SessionContext context_;
    NativeDialect native_;
    StockDialect stock_;
};

}  // namespace caravan::server
