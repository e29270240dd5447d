// The state of one endpoint across connections: its devices, their constants, and cached query results.
//
// Threads: any. Lives as long as the process, because ggml never frees devices. Connections are owned by buffers, back-ends
// and events.
#pragma once

#include <condition_variable>
#include <memory>
#include <mutex>
#include <stop_token>
#include <string>
#include <thread>
#include <unordered_map>
#include <vector>

#include "client/session/connection.h"

namespace caravan::client {

class RemoteServer {
public:
    // Queries the server's devices, their alignments and limits. Fails with the error of Connection::open() or of a query.
    // The time-outs apply to all its connections.
    static Result<std::unique_ptr<RemoteServer>> reach(const net::Endpoint & endpoint, const ConnectionOptions & timeouts = {});

    const net::Endpoint & endpoint() const { return endpoint_; }
    uint32_t device_count() const { return static_cast<uint32_t>(constants_.size()); }
    uint64_t alignment(uint32_t device) const { return constants_[device].alignment; }
    uint64_t max_size(uint32_t device) const { return constants_[device].max_size; }
    // "10.0.0.2:50052 (CPU: AMD EPYC)"; only the endpoint if the server is not Caravan's.
    const std::string & description(uint32_t device) const { return constants_[device].description; }

    enum class Use { backend, memory };
    // The live session, or a new one. The caller shares its ownership. A session that is used for memory switches to RDMA, if
    // both peers have it. A native one without memory outlives its owners for some seconds: programs make back-ends and free
    // them, only to ask how much memory a model would need, before they load it.
    Result<std::shared_ptr<Connection>> session(Use use);
    // Of the sessions that session() has opened.
    SessionHistory & history() const { return *history_; }

    Result<DeviceMemory> memory(uint32_t device);

    // Bytes that the tensor takes on the device: more than ggml_nbytes() for some ops and quantised types. Results are
    // cached. Returns ggml_nbytes() if the server does not reply.
    size_t alloc_size(uint32_t device, const ggml_tensor & tensor);

    // Whether the device can compute this node. Results of native servers are cached. A stock server cannot be queried, so
    // every node that its dialect can describe counts as supported. A query repeats those sent earlier for other devices,
    // because programs spread one model over all devices.
    bool supports(uint32_t device, const ggml_tensor & node);

private:
    struct Constants {
        uint64_t alignment;
        uint64_t max_size;
        std::string description;
    };

    static Result<std::unique_ptr<RemoteServer>> try_to_reach(const net::Endpoint & endpoint,
                                                              const ConnectionOptions & timeouts);

    RemoteServer(net::Endpoint endpoint, const ConnectionOptions & timeouts)
        : endpoint_(std::move(endpoint)), query_options_(timeouts) {}
    Result<std::shared_ptr<Connection>> open_for_queries() const {
        return Connection::open(endpoint_, Connection::Purpose::queries, query_options_);
    }

    Result<std::shared_ptr<Connection>> session_locked();
    void hold(std::shared_ptr<Connection> session);
    void release_held(const std::stop_token & stop);
    void report_failed_query(std::string_view query, const Error & error, bool has_session);
    // A session for a query, which stays open for later queries.
    Result<std::shared_ptr<Connection>> session_for_queries();

    const net::Endpoint endpoint_;
    const ConnectionOptions query_options_;  // without a history
    const std::shared_ptr<SessionHistory> history_ = std::make_shared<SessionHistory>();
    std::vector<Constants> constants_;

    std::mutex mutex_;
    std::weak_ptr<Connection> session_;
    // Why the last session could not be opened, and until when this error is returned without another attempt: a program
    // sends hundreds of queries while it starts, and must wait once for all of them.
    Error open_error_{};
    TimePoint no_open_until_ = TimePoint::min();
    // A session without memory, until held_until_: programs use it for queries of sizes and ops before they allocate a buffer.
    // Other queries use short connections: a stock server serves one connection at a time, and a program that only lists
    // devices must not occupy it.
    std::shared_ptr<Connection> held_session_;
    TimePoint held_until_{};
    bool has_memory_ = false;  // session_ was used for memory
    bool is_native_ = false;
    struct LastMemory {
        DeviceMemory memory;
        TimePoint valid_until = TimePoint::min();
    };
    std::vector<LastMemory> last_memory_;                             // by device
    std::vector<std::unordered_map<std::string, size_t>> alloc_sizes_;  // by device
    std::vector<std::unordered_map<std::string, bool>> supported_;  // by device
    std::atomic<TimePoint> no_queries_until_ = TimePoint::min();

    std::condition_variable_any held_changed_;
    bool is_releasing_ = false;  // the thread runs
    std::jthread releasing_;     // destroyed first
};

}  // namespace caravan::client
