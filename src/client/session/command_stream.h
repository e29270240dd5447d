// The commands of one session in its stream: encoded in the dialect that both peers support, collected in a batch, and sent
// when something needs them. Which commands must precede another one is the matter of CommandQueue.
//
// Threads: any; every function except lock(), endpoint() and is_native() requires the lock. Functions with a Lock argument
// release it while they wait.
//
// Failure: sticky, and reported once. A failed stream sends nothing, and expected replies are absent (Stream::Absent).
#pragma once

#include <atomic>
#include <memory>

#include "client/encode/commands.h"
#include "client/session/connection_options.h"
#include "client/session/launch_prediction.h"
#include "client/session/loss_report.h"
#include "client/session/relays.h"
#include "client/session/stream.h"
#include "net/endpoint.h"

namespace caravan::client {

class CommandStream {
public:
    using Lock = Stream::Lock;

    // `is_session`: the program depends on the server, so its loss is reported. Otherwise the connection is for queries only.
    CommandStream(net::Endpoint endpoint, bool is_session, std::unique_ptr<net::Transport> transport, bool native,
                  const ConnectionOptions & options);

    const net::Endpoint & endpoint() const { return endpoint_; }
    bool is_native() const { return native_ != nullptr; }
    // Whether any session of this process has failed.
    static bool any_failed() { return any_failed_.load(std::memory_order_relaxed); }

    [[nodiscard]] Lock lock() { return Lock(stream_.mutex()); }
    const std::optional<Error> & failure() const { return stream_.failure(); }

    Stream & stream() { return stream_; }
    Commands & commands() { return *commands_; }
    NativeCommands & native() { return *native_; }  // requires is_native()
    Relays & relays() { return relays_; }
    LaunchPrediction & prediction() { return prediction_; }

    // Appends a write of copied data.
    void append_write(const wire::Region & region, uint64_t offset, ConstBytes data, bool keep);
    // The same for data of any size. Sends long data from the caller's memory, and the batch if it is large.
    void write(Lock & lock, const wire::Region & region, uint64_t offset, ConstBytes data, bool keep);
    // Sends the batch if it is large.
    void flush_if_large(Lock & lock);
    // Sends the batch. Waits for the relays in it.
    void flush(Lock & lock);
    // Waits for a reply / for all of them.
    void await(Lock & lock, Stream::Ticket ticket);
    Result<> await_all(Lock & lock);

    // The program's next command does not read the prefetched result.
    void discard_prefetched();
    // A reply of one byte. Any value but 0 and 1 ends the session: its meaning is unknown.
    bool decode_flag(uint8_t reply);
    // Fails the session.
    void close(Error error);
    // Reports the failure, if there is one. Call this after each operation of the stream that failed.
    void report_failure();
    // The session failed before this launch.
    void repeat_failure() { loss_report_->repeat(*failure(), Clock::now()); }
    // The program no longer depends on the session.
    void disable_loss_report() { loss_report_->disable(); }

private:
    const net::Endpoint endpoint_;
    const bool is_session_;
    const std::shared_ptr<LossReport> loss_report_;
    Stream stream_;
    std::unique_ptr<Commands> commands_;
    NativeCommands * native_ = nullptr;  // commands_ if native, else null; constant
    Relays relays_{stream_};
    LaunchPrediction prediction_;
    static inline std::atomic<bool> any_failed_ = false;
};

}  // namespace caravan::client
