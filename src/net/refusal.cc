#include "net/refusal.h"

#include <array>

#include "base/printable.h"
#include "wire/extension.h"
#include "wire/native.h"
#include "wire/record_check.h"

namespace caravan::net {

std::vector<std::byte> refusal(std::string_view reason, bool in_records) {
    const std::string text = printable(reason, wire::max_error_text);
    const uint64_t head = static_cast<uint64_t>(wire::ReplyKind::ended) << wire::reply_kind_shift | text.size();
    std::vector<std::byte> reply(sizeof head + text.size());
    store(reply.data(), head);
    std::memcpy(reply.data() + sizeof head, text.data(), text.size());
    if (!in_records) {
        return reply;
    }
    wire::RecordHeader header{static_cast<uint32_t>(reply.size()), 0, 0};
    header.check = wire::record_check(0, header, std::array{ConstBytes(reply)});
    std::vector<std::byte> record(sizeof header + reply.size());
    store(record.data(), header);
    std::memcpy(record.data() + sizeof header, reply.data(), reply.size());
    return record;
}

}  // namespace caravan::net
