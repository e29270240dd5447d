#include "server/session/replies.h"

#include "tunables/session.h"

namespace caravan::server {

Result<> Replies::send_bytes(ConstBytes payload) { return begin(payload.size(), payload); }

Result<> Replies::begin(uint64_t size, ConstBytes first) {
    bytes_sent_ += sizeof size + size;
    return net::send_all(transport_, {const_bytes(&size, sizeof size), first}, tunable::client_stall_timeout);
}

Result<> Replies::append(ConstBytes bytes) { return net::send_all(transport_, {bytes}, tunable::client_stall_timeout); }

Result<> Replies::send_text(wire::ReplyKind kind, std::string_view text) {
    text = text.substr(0, wire::max_error_text);
    const uint64_t head = static_cast<uint64_t>(kind) << wire::reply_kind_shift | text.size();
    bytes_sent_ += sizeof head + text.size();
    return net::send_all(transport_, {const_bytes(&head, sizeof head), const_bytes(text.data(), text.size())},
                         tunable::client_stall_timeout);
}

Result<> Replies::report_failure(Result<> launch) {
    return launch || !is_native_ ? launch : send_text(wire::ReplyKind::launch_failed, launch.error().text);
}

}  // namespace caravan::server
