#include "client/session/remote_server.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "abi/abi_check.h"
#include "abi/moves_no_data.h"
#include "base/config.h"
#include "base/log.h"
#include "base/printable.h"
#include "base/retry.h"
#include "client/session/end_program.h"
#include "tunables/client.h"

namespace caravan::client {
namespace {

wire::Tensor shape_of(const ggml_tensor & tensor) {
    wire::Tensor out = stock_tensor(encode_region(tensor, 0));
    out.op = static_cast<uint32_t>(tensor.op);
    std::memcpy(out.op_params, tensor.op_params, sizeof out.op_params);
    out.flags = tensor.flags;
    return out;
}

using OpQuery = std::vector<wire::GraphTensor>;  // see encode_op_query()

std::string key_of(const OpQuery & query) {
    return {reinterpret_cast<const char *>(query.data()), query.size() * sizeof(wire::GraphTensor)};
}

// Appends the tensors of `query` to `all`.
void append_query(OpQuery & all, const OpQuery & query) {
    const auto first = static_cast<uint32_t>(all.size());
    for (wire::GraphTensor tensor : query) {
        for (int i = 0; i < wire::max_sources; ++i) {
            tensor.src[i] = tensor.src[i] == 0 ? 0 : tensor.src[i] + first;
        }
        all.push_back(tensor);
    }
}

// The queries that this process has sent for any device of any server. Threads: any.
template <class Query>
class QueryHistory {
public:
    static QueryHistory & instance() {
        static QueryHistory & only = *new QueryHistory();  // sessions may end after static objects
        return only;
    }

    // The other queries that have no result in `results`. Adds this query to the history.
    template <class Results>
    std::vector<std::pair<std::string, Query>> missing_from(const Results & results, const std::string & key,
                                                            const Query & query) {
        std::lock_guard lock(mutex_);
        std::vector<std::pair<std::string, Query>> out;
        for (const auto & [other_key, other] : queries_) {
            if (other_key != key && !results.contains(other_key)) {
                out.emplace_back(other_key, other);
            }
        }
        if (queries_.size() < tunable::max_query_history) {
            queries_.emplace(key, query);
        }
        return out;
    }

private:
    std::mutex mutex_;
    std::unordered_map<std::string, Query> queries_;
};

template <size_t size>
std::string text_in(const char (&field)[size]) {
    return {field, strnlen(field, size)};
}

}  // namespace

Result<std::unique_ptr<RemoteServer>> RemoteServer::reach(const net::Endpoint & endpoint, const ConnectionOptions & timeouts) {
    auto server = retry_after_reset([&] { return try_to_reach(endpoint, timeouts); });
    if (!server) {
        std::string & text = server.error().text;
        text = formatted("RPC server {}: {}", endpoint.text(), net::without_endpoint(endpoint, text));
    }
    return server;
}

Result<std::unique_ptr<RemoteServer>> RemoteServer::try_to_reach(const net::Endpoint & endpoint,
                                                                 const ConnectionOptions & timeouts) {
    std::unique_ptr<RemoteServer> server(new RemoteServer(endpoint, timeouts));
    auto connection = server->open_for_queries();
    if (!connection) {
        return std::unexpected(connection.error());
    }
    const auto count = (*connection)->queries().device_count();
    if (!count) {
        return std::unexpected(count.error());
    }
    const auto constants = (*connection)->queries().constants(*count);
    if (!constants) {
        return std::unexpected(constants.error());
    }
    for (const DeviceConstants & of : *constants) {
        std::string description = endpoint.text();
        if ((*connection)->is_native()) {
            description += formatted(" ({}: {})", printable(text_in(of.facts.name)), printable(text_in(of.facts.description)));
        }
        server->constants_.push_back({of.alignment, of.max_size, std::move(description)});
    }
    server->is_native_ = (*connection)->is_native();
    server->supported_.resize(server->constants_.size());
    server->alloc_sizes_.resize(server->constants_.size());
    server->last_memory_.resize(server->constants_.size());
    return server;
}

Result<std::shared_ptr<Connection>> RemoteServer::session(Use use) {
    std::lock_guard lock(mutex_);
    auto live = session_locked();
    if (live && use == Use::memory) {
        has_memory_ = true;
        (*live)->carry_data();
    }
    hold(live && is_native_ && !has_memory_ ? *live : nullptr);
    return live;
}

// Requires the lock.
void RemoteServer::hold(std::shared_ptr<Connection> session) {
    held_session_ = std::move(session);
    held_until_ = Clock::now() + tunable::held_session_lifetime;
    if (held_session_ != nullptr && !is_releasing_) {
        is_releasing_ = true;
        releasing_ = std::jthread([this](const std::stop_token & stop) { release_held(stop); });
    }
    held_changed_.notify_all();
}

// The thread: closes the held session at its time, and ends when none is held.
void RemoteServer::release_held(const std::stop_token & stop) {
    std::unique_lock lock(mutex_);
    while (held_session_ != nullptr && Clock::now() < held_until_ && !stop.stop_requested()) {
        const TimePoint until = held_until_;  // may change meanwhile
        held_changed_.wait_until(lock, stop, until, [&] { return held_session_ == nullptr; });
    }
    const auto last = std::exchange(held_session_, nullptr);
    is_releasing_ = false;
    lock.unlock();
}

Result<std::shared_ptr<Connection>> RemoteServer::session_locked() {
    if (auto live = session_.lock(); live != nullptr && !live->failed()) {
        return live;
    }
    if (Clock::now() < no_open_until_) {
        return std::unexpected(open_error_);
    }
    ConnectionOptions options = query_options_;
    options.history = history_;
    auto opened = Connection::open(endpoint_, Connection::Purpose::inquiry, options);
    if (opened) {
        session_ = *opened;
        has_memory_ = false;
        std::ranges::fill(last_memory_, LastMemory{});
    } else if (servers_are_required()) {  // the program would go on with other devices, or exit with another code
        end_program(formatted("RPC server {}, and GGML_RPC_REQUIRE=1 is set", opened.error().text));
    } else if (opened.error().code == Errc::timed_out) {
        open_error_ = opened.error();
        no_open_until_ = Clock::now() + tunable::open_retry_delay;
    }
    return opened;
}

// Programs query the memory several times before they load a model, each time over a connection of its own.
Result<DeviceMemory> RemoteServer::memory(uint32_t device) {
    std::shared_ptr<Connection> live;
    {
        std::lock_guard lock(mutex_);
        live = session_.lock();
        if ((live == nullptr || live->failed()) && Clock::now() < last_memory_[device].valid_until) {
            return last_memory_[device].memory;
        }
    }
    if (live != nullptr && !live->failed()) {
        return live->queries().memory(device);
    }
    const auto memory = retry_after_reset([&]() -> Result<DeviceMemory> {
        const auto opened = open_for_queries();
        return opened ? (*opened)->queries().memory(device) : std::unexpected(opened.error());
    });
    if (memory) {
        std::lock_guard lock(mutex_);
        last_memory_[device] = {*memory, Clock::now() + tunable::memory_reply_lifetime};
    }
    return memory;
}

Result<std::shared_ptr<Connection>> RemoteServer::session_for_queries() {
    std::lock_guard lock(mutex_);
    const bool is_held = !session_.expired();
    auto session = session_locked();
    if (session && !is_held) {
        hold(*session);
    }
    return session;
}

// Programs send hundreds of queries in a row: after a failure the next ones must not wait for the server again.
void RemoteServer::report_failed_query(std::string_view query, const Error & error, bool has_session) {
    no_queries_until_ = Clock::now() + tunable::query_retry_delay;
    if (has_session) {
        log_error("RPC server {}: cannot query {}: {}", endpoint_.text(), query,
                  net::without_endpoint(endpoint_, error.text));
    } else {
        log_error("RPC server {}{}{}", error.text, error.advice.empty() ? "" : "; what to do: ", error.advice);
    }
}

bool RemoteServer::supports(uint32_t device, const ggml_tensor & node) {
    if (!abi::is_same_op(node.op) || !can_carry(node, is_native_)) {
        return false;
    }
    if (!is_native_ || abi::moves_no_data(node.op) || ggml_is_empty(&node)) {
        return true;
    }
    const OpQuery query = encode_op_query(node);
    std::string key = key_of(query);
    std::vector<std::pair<std::string, OpQuery>> others;
    {
        std::lock_guard lock(mutex_);
        auto & results = supported_[device];
        if (const auto known = results.find(key); known != results.end()) {
            return known->second;
        }
        if (results.size() >= tunable::max_cached_replies) {
            results.clear();
        }
        others = QueryHistory<OpQuery>::instance().missing_from(results, key, query);
    }
    if (Clock::now() < no_queries_until_.load()) {
        return true;
    }
    OpQuery all = query;
    for (const auto & [other_key, other] : others) {
        append_query(all, other);
    }
    auto live = session_for_queries();
    auto reply = live ? (*live)->queries().supports(device, all) : std::unexpected(live.error());
    if (reply && reply->empty() && !others.empty()) {
        others.clear();  // the server refused one of the queries, perhaps not this one
        reply = (*live)->queries().supports(device, query);
    }
    if (!reply) {
        report_failed_query(formatted("support of {}", ggml_op_name(node.op)), reply.error(), live.has_value());
        return true;  // the launch will fail
    }
    const bool is_supported = !reply->empty() && reply->front() != 0;
    if (!is_supported) {
        log_debug("{}: device {} does not support {} ({})", endpoint_.text(), device, ggml_op_name(node.op), node.name);
    }
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < others.size(); ++i) {
        supported_[device][others[i].first] = (*reply)[i + 1] != 0;
    }
    return supported_[device][std::move(key)] = is_supported;
}

size_t RemoteServer::alloc_size(uint32_t device, const ggml_tensor & tensor) {
    const size_t bytes = ggml_nbytes(&tensor);
    if (ggml_is_empty(&tensor) || (!is_padded(tensor) && !ggml_op_alloc_size_may_expand(tensor.op))) {
        return bytes;
    }
    wire::GetAllocSizeRequest request{};
    request.tensor = shape_of(tensor);
    request.tensor.id = 1;
    for (int i = 0; i < GGML_MAX_SRC; ++i) {
        if (tensor.src[i] != nullptr) {
            request.src[i] = shape_of(*tensor.src[i]);
            request.src[i].id = static_cast<uint64_t>(i) + 2;
            request.tensor.src[i] = request.src[i].id;
        }
    }
    // The request has no addresses, names or device yet, so its bytes are the key.
    const std::string key(reinterpret_cast<const char *>(&request), sizeof request);
    std::vector<std::pair<std::string, wire::GetAllocSizeRequest>> all{{key, request}};
    {
        std::lock_guard lock(mutex_);
        auto & sizes = alloc_sizes_[device];
        if (const auto known = sizes.find(key); known != sizes.end()) {
            return std::max(bytes, known->second);
        }
        if (sizes.size() >= tunable::max_cached_replies) {
            sizes.clear();
        }
        auto others = QueryHistory<wire::GetAllocSizeRequest>::instance().missing_from(sizes, key, request);
        if (is_native_) {  // a stock server ends the session if it cannot read a request
            std::ranges::move(others, std::back_inserter(all));
        }
    }
    if (Clock::now() < no_queries_until_.load()) {
        return bytes;
    }
    std::vector<wire::GetAllocSizeRequest> requests;
    for (const auto & [other_key, other] : all) {
        requests.push_back(other);
        requests.back().device = device;
    }
    auto live = session_for_queries();
    const auto replies = live ? (*live)->queries().alloc_sizes(requests) : std::unexpected(live.error());
    if (!replies) {
        report_failed_query("the size of a tensor", replies.error(), live.has_value());
        return bytes;
    }
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < all.size(); ++i) {
        alloc_sizes_[device][all[i].first] = (*replies)[i];
    }
    return std::max<size_t>(bytes, replies->front());
}

}  // namespace caravan::client
