#include "client/remote_server.h"

#include <algorithm>
#include <iterator>
#include <utility>

#include "abi/moves_no_data.h"
#include "base/config.h"
#include "base/log.h"
#include "base/printable.h"
#include "base/retry.h"
#include "client/end_program.h"

namespace caravan::client {
namespace {

constexpr size_t max_remembered = 16 * 1024;
constexpr size_t max_asked_ahead = 256;  // questions: what one model needs on several devices
constexpr seconds retry_questions{10};     // after a server did not answer
constexpr seconds memory_lasts{1};         // while no session of this process changes it
constexpr seconds retry_opening{10};       // of a session, after one for which there was no time left

wire::Tensor shape_of(const ggml_tensor & tensor) {
    wire::Tensor out = stock_tensor(encode_region(tensor, 0));
    out.op = static_cast<uint32_t>(tensor.op);
    std::memcpy(out.op_params, tensor.op_params, sizeof out.op_params);
    out.flags = tensor.flags;
    return out;
}

using Question = std::vector<wire::GraphTensor>;  // an encode_question()

std::string key_of(const Question & question) {
    return {reinterpret_cast<const char *>(question.data()), question.size() * sizeof(wire::GraphTensor)};
}

// Its tensors after those of `all`.
void append_question(Question & all, const Question & question) {
    const auto first = static_cast<uint32_t>(all.size());
    for (wire::GraphTensor tensor : question) {
        for (int i = 0; i < wire::max_sources; ++i) {
            tensor.src[i] = tensor.src[i] == 0 ? 0 : tensor.src[i] + first;
        }
        all.push_back(tensor);
    }
}

// What any device of any server was asked by this process: programs spread one model over all devices. Threads: any.
template <class Question>
class AskedQuestions {
public:
    static AskedQuestions & instance() {
        static AskedQuestions & only = *new AskedQuestions();  // sessions may end after static objects
        return only;
    }

    // Those to which `answers` has none. Adds this one, which is not among them.
    template <class Answers>
    std::vector<std::pair<std::string, Question>> unanswered(const Answers & answers, const std::string & key,
                                                             const Question & question) {
        std::lock_guard lock(mutex_);
        std::vector<std::pair<std::string, Question>> out;
        for (const auto & [other, asked] : questions_) {
            if (other != key && !answers.contains(other)) {
                out.emplace_back(other, asked);
            }
        }
        if (questions_.size() < max_asked_ahead) {
            questions_.emplace(key, question);
        }
        return out;
    }

private:
    std::mutex mutex_;
    std::unordered_map<std::string, Question> questions_;
};

template <size_t size>
std::string text_in(const char (&field)[size]) {
    return {field, strnlen(field, size)};
}

}  // namespace

Result<std::unique_ptr<RemoteServer>> RemoteServer::reach(const net::Endpoint & endpoint) {
    auto server = retry_after_reset([&] { return try_to_reach(endpoint); });
    if (!server) {
        std::string & text = server.error().text;
        text = formatted("RPC server {}: {}", endpoint.text(), net::without_endpoint(endpoint, text));
    }
    return server;
}

Result<std::unique_ptr<RemoteServer>> RemoteServer::try_to_reach(const net::Endpoint & endpoint) {
    std::unique_ptr<RemoteServer> server(new RemoteServer(endpoint));
    auto connection = Connection::open(endpoint, Connection::Purpose::questions);
    if (!connection) {
        return std::unexpected(connection.error());
    }
    const auto count = (*connection)->device_count();
    if (!count) {
        return std::unexpected(count.error());
    }
    const auto constants = (*connection)->constants(*count);
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

Result<std::shared_ptr<Connection>> RemoteServer::session() {
    std::lock_guard lock(mutex_);
    auto live = session_locked();
    kept_for_questions_.reset();
    return live;
}

Result<std::shared_ptr<Connection>> RemoteServer::session_locked() {
    if (auto live = session_.lock(); live != nullptr && !live->failed()) {
        return live;
    }
    if (Clock::now() < no_opening_until_) {
        return std::unexpected(failed_opening_);
    }
    auto opened = Connection::open(endpoint_, Connection::Purpose::session);
    if (opened) {
        session_ = *opened;
        std::ranges::fill(last_memory_, LastMemory{});
    } else if (servers_are_required()) {  // without a session the program would use other devices, or fail with its own code
        end_program(formatted("RPC server {}, and GGML_RPC_REQUIRE=1 is set", opened.error().text));
    } else if (opened.error().code == Errc::timed_out) {
        failed_opening_ = opened.error();
        no_opening_until_ = Clock::now() + retry_opening;
    }
    return opened;
}

// Programs ask several times in a row before they load a model, each time over a connection of its own.
Result<DeviceMemory> RemoteServer::memory(uint32_t device) {
    std::shared_ptr<Connection> live;
    {
        std::lock_guard lock(mutex_);
        live = session_.lock();
        if ((live == nullptr || live->failed()) && Clock::now() < last_memory_[device].good_until) {
            return last_memory_[device].memory;
        }
    }
    if (live != nullptr && !live->failed()) {
        return live->memory(device);
    }
    const auto memory = retry_after_reset([&]() -> Result<DeviceMemory> {
        const auto opened = Connection::open(endpoint_, Connection::Purpose::questions);
        return opened ? (*opened)->memory(device) : std::unexpected(opened.error());
    });
    if (memory) {
        std::lock_guard lock(mutex_);
        last_memory_[device] = {*memory, Clock::now() + memory_lasts};
    }
    return memory;
}

Result<std::shared_ptr<Connection>> RemoteServer::session_for_questions() {
    std::lock_guard lock(mutex_);
    const bool is_held = !session_.expired();
    auto session = session_locked();
    if (session && !is_held) {
        kept_for_questions_ = *session;
    }
    return session;
}

// Hundreds of these questions come in a row: waiting for a server that does not answer once is enough.
void RemoteServer::report_unanswered(std::string_view question, const Error & error, bool has_session) {
    no_questions_until_ = Clock::now() + retry_questions;
    if (has_session) {
        log_error("{}: cannot ask {}: {}", endpoint_.text(), question, error.text);
    } else {
        log_error("RPC server {}{}{}", error.text, error.advice.empty() ? "" : "; what to do: ", error.advice);
    }
}

bool RemoteServer::supports(uint32_t device, const ggml_tensor & node) {
    if (!can_carry(node, is_native_)) {
        return false;
    }
    if (!is_native_ || abi::moves_no_data(node.op) || ggml_is_empty(&node)) {
        return true;
    }
    const Question question = encode_question(node);
    std::string key = key_of(question);
    std::vector<std::pair<std::string, Question>> others;
    {
        std::lock_guard lock(mutex_);
        auto & answers = supported_[device];
        if (const auto known = answers.find(key); known != answers.end()) {
            return known->second;
        }
        if (answers.size() >= max_remembered) {
            answers.clear();
        }
        others = AskedQuestions<Question>::instance().unanswered(answers, key, question);
    }
    if (Clock::now() < no_questions_until_.load()) {
        return true;
    }
    Question all = question;
    for (const auto & [other, asked] : others) {
        append_question(all, asked);
    }
    auto live = session_for_questions();
    auto answer = live ? (*live)->supports(device, all) : std::unexpected(live.error());
    if (answer && answer->empty() && !others.empty()) {
        others.clear();  // one of them is refused: that must not be held against this one
        answer = (*live)->supports(device, question);
    }
    if (!answer) {
        report_unanswered(formatted("whether it supports {}", ggml_op_name(node.op)), answer.error(), live.has_value());
        return true;  // the launch will fail by itself
    }
    const bool is_supported = !answer->empty() && answer->front() != 0;
    if (!is_supported) {
        log_debug("{}: device {} does not support {} ({})", endpoint_.text(), device, ggml_op_name(node.op), node.name);
    }
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < others.size(); ++i) {
        supported_[device][others[i].first] = (*answer)[i + 1] != 0;
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
    // Without ids of its own, addresses, names and device, the request is its own key.
    const std::string key(reinterpret_cast<const char *>(&request), sizeof request);
    std::vector<std::pair<std::string, wire::GetAllocSizeRequest>> all{{key, request}};
    {
        std::lock_guard lock(mutex_);
        auto & sizes = alloc_sizes_[device];
        if (const auto known = sizes.find(key); known != sizes.end()) {
            return std::max(bytes, known->second);
        }
        if (sizes.size() >= max_remembered) {
            sizes.clear();
        }
        auto others = AskedQuestions<wire::GetAllocSizeRequest>::instance().unanswered(sizes, key, request);
        if (is_native_) {  // a stock server ends the session over what it cannot read
            std::ranges::move(others, std::back_inserter(all));
        }
    }
    if (Clock::now() < no_questions_until_.load()) {
        return bytes;
    }
    std::vector<wire::GetAllocSizeRequest> requests;
    for (const auto & [other, asked] : all) {
        requests.push_back(asked);
        requests.back().device = device;
    }
    auto live = session_for_questions();
    const auto answers = live ? (*live)->alloc_sizes(requests) : std::unexpected(live.error());
    if (!answers) {
        report_unanswered("for the size of a tensor", answers.error(), live.has_value());
        return bytes;
    }
    std::lock_guard lock(mutex_);
    for (size_t i = 0; i < all.size(); ++i) {
        alloc_sizes_[device][all[i].first] = (*answers)[i];
    }
    return std::max<size_t>(bytes, answers->front());
}

}  // namespace caravan::client
