#include "server/links/link_receiver.h"

#include "tunables/links.h"
#include "wire/native.h"

namespace caravan::server {

LinkReceiver::LinkReceiver(std::unique_ptr<net::Transport> transport, bool shares_memory)
    : transport_(std::move(transport)),
      shares_memory_(shares_memory),
      in_(*transport_, {}, tunable::link_stall_timeout, net::Polling::of_environment()) {}

net::Transport * LinkReceiver::take_over() {
    return next_ > 0 || std::exchange(is_taken_, true) ? nullptr : transport_.get();
}

Result<> LinkReceiver::begin(uint64_t size) {
    if (is_taken_) {
        return fail(Errc::invalid_argument, "the link belongs to a group");
    }
    const auto bytes = in_.peek(sizeof(wire::PushHeader), true);
    if (!bytes && in_.was_silent()) {
        return std::unexpected(bytes.error());
    }
    if (!bytes) {
        return fail(bytes.error().code == Errc::closed ? Errc::unavailable : bytes.error().code,
                    "the link from another server broke: {}", bytes.error().text);
    }
    const auto header = load<wire::PushHeader>(bytes->data());
    const uint64_t number = header.number, given = header.size;
    if (number != next_ || (given != size && given != wire::push_absent)) {
        return fail(Errc::protocol, "another server sent message {} of {} bytes instead of message {} of {} bytes", number,
                    given, next_, size);
    }
    ++next_;
    in_.take(sizeof header);
    if (given == wire::push_absent) {
        return fail(Errc::unavailable, "another server could not compute the data to send");
    }
    return {};
}

}  // namespace caravan::server
