// What the client knows of one endpoint, across connections: its devices and their constants.
//
// Threads: any. Lives as long as the process, since ggml keeps devices for ever; connections come and go with the
// buffers, back-ends and events that hold them.
#pragma once

#include <memory>
#include <mutex>
#include <string>
#include <unordered_map>
#include <vector>

#include "client/connection.h"

namespace caravan::client {

class RemoteServer {
public:
    // Asks the server how many devices it has, and their alignments and limits.
    static Result<std::unique_ptr<RemoteServer>> reach(const net::Endpoint & endpoint);

    const net::Endpoint & endpoint() const { return endpoint_; }
    uint32_t device_count() const { return static_cast<uint32_t>(constants_.size()); }
    uint64_t alignment(uint32_t device) const { return constants_[device].alignment; }
    uint64_t max_size(uint32_t device) const { return constants_[device].max_size; }
    // "10.0.0.2:50052", and from a Caravan server more: "10.0.0.2:50052 (CPU: AMD EPYC)".
    const std::string & description(uint32_t device) const { return constants_[device].description; }

    // The live session, or a new one, for a buffer or a back-end that will hold it.
    Result<std::shared_ptr<Connection>> session();

    Result<DeviceMemory> memory(uint32_t device);

    // Bytes that the tensor takes on the device; more than ggml_nbytes for some ops and quantised types. Remembered by
    // everything that the answer can depend on.
    size_t alloc_size(uint32_t device, const ggml_tensor & tensor);

    // Can the device compute this node? Asked of a native server, and remembered; a stock server cannot be asked, so all
    // that its dialect can carry is taken to be supported. What another device was asked is asked with it: programs spread
    // one model over all of them.
    bool supports(uint32_t device, const ggml_tensor & node);

private:
    struct Constants {
        uint64_t alignment;
        uint64_t max_size;
        std::string description;
    };

    static Result<std::unique_ptr<RemoteServer>> try_to_reach(const net::Endpoint & endpoint);

    explicit RemoteServer(net::Endpoint endpoint) : endpoint_(std::move(endpoint)) {}

    Result<std::shared_ptr<Connection>> session_locked();
    void report_unanswered(std::string_view question, const Error & error, bool has_session);
    // A session for a question, kept for the next ones.
    Result<std::shared_ptr<Connection>> session_for_questions();

    const net::Endpoint endpoint_;
    std::vector<Constants> constants_;

    std::mutex mutex_;
    std::weak_ptr<Connection> session_;
    // Why the last session could not be opened, and until when nobody waits for another one: a program that starts has
    // hundreds of questions, and waits once for all of them.
    Error failed_opening_{};
    TimePoint no_opening_until_ = TimePoint::min();
    // While a model is being planned, sizes and ops are asked about before any buffer exists: one connection for all of
    // them, until the first buffer takes it over. Not for other questions: a stock server serves one connection at a
    // time, and a program that only looked at its devices must not keep it.
    std::shared_ptr<Connection> kept_for_questions_;
    bool is_native_ = false;
    struct LastMemory {
        DeviceMemory memory;
        TimePoint good_until = TimePoint::min();
    };
    std::vector<LastMemory> last_memory_;                             // by device
    std::vector<std::unordered_map<std::string, size_t>> alloc_sizes_;  // by device
    std::vector<std::unordered_map<std::string, bool>> supported_;  // by device
    std::atomic<TimePoint> no_questions_until_ = TimePoint::min();
};

}  // namespace caravan::client
