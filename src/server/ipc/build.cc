#include "server/ipc/build.h"

#include <array>

#include "net/faults.h"
#include "net/hello.h"
#include "platform/message_pipe.h"

namespace caravan::server {

std::string build_text() {
    return formatted("{}{}{}", CARAVAN_BUILD, net::built_with_rdma ? "-rdma" : "", net::injects_faults ? "-faults" : "");
}

bool send_build(int fd) {
    const std::string text = build_text();
    return platform::send_message(fd, const_bytes(text.data(), text.size())).has_value();
}

Result<std::optional<std::string>> receive_build(int fd) {
    std::array<char, 128> text;
    const auto got = platform::receive_message(fd, mutable_bytes(text.data(), text.size()), false);
    if (!got) {
        return std::unexpected(got.error());
    }
    return *got ? std::optional(std::string(text.data(), (*got)->size)) : std::nullopt;
}

}  // namespace caravan::server
