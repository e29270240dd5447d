// Messages between two processes of this machine, with handles attached. Message boundaries are preserved.
#pragma once

#include <optional>

#include "base/bytes.h"
#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

struct MessagePipe {
    UniqueFd ours;    // non-blocking, not inherited by child processes; receives no handles
    UniqueFd theirs;  // inherited
};
// `in_flight`: bytes that are buffered towards `theirs`, approximate; the system may double it. Errc::io.
Result<MessagePipe> make_message_pipe(int in_flight);

// Sends the whole message or nothing, with the handle `attached` unless it is -1. Errc::unavailable: the buffer is full, or the
// other process has exited; the error's text is the system's reason.
Result<> send_message(SocketHandle pipe, ConstBytes message, SocketHandle attached = -1);

struct ReceivedMessage {
    size_t size = 0;  // bytes
    UniqueFd attached;
};
// Receives a message of at most `to.size()` bytes; the rest of a longer one is lost. A handle is closed unless
// `accepts_handle`, and so are further ones. std::nullopt: none is pending, and `pipe` is non-blocking. Errc::closed: the other
// process has exited, and all of its messages have been received.
Result<std::optional<ReceivedMessage>> receive_message(SocketHandle pipe, MutableBytes to, bool accepts_handle);

}  // namespace caravan::platform
