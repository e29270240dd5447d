#include "server/ipc/control.h"

#include <algorithm>
#include <cstring>

#include "platform/message_pipe.h"
#include "tunables/session.h"

namespace caravan::server {

void ControlMessage::set_text(std::string_view from) {
    const size_t size = std::min(from.size(), sizeof text - 1);
    std::memcpy(text, from.data(), size);
    text[size] = '\0';
}

Result<ControlChannel> make_control_channel() {
    return platform::make_message_pipe(tunable::control_buffer_size).transform([](platform::MessagePipe pipe) {
        return ControlChannel{std::move(pipe.ours), std::move(pipe.theirs)};
    });
}

Result<> try_send_control(int fd, const ControlMessage & message, int attached) {
    return platform::send_message(fd, const_bytes(&message, sizeof message), attached);
}

bool send_control(int fd, const ControlMessage & message, int attached) {
    return try_send_control(fd, message, attached).has_value();
}

Result<std::optional<ReceivedControl>> receive_control(int fd, Descriptors descriptors) {
    ReceivedControl received;
    auto got = platform::receive_message(fd, mutable_bytes(&received.message, sizeof received.message),
                                         descriptors == Descriptors::accept_one);
    if (!got || !*got) {
        return got ? Result<std::optional<ReceivedControl>>(std::nullopt) : std::unexpected(got.error());
    }
    received.attached = std::move((*got)->attached);
    if ((*got)->size != sizeof received.message) {
        return fail(Errc::protocol, "a torn message between server and worker");
    }
    received.message.text[sizeof received.message.text - 1] = '\0';
    return received;
}

}  // namespace caravan::server
