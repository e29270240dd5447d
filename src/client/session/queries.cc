#include "client/session/queries.h"

#include <algorithm>
#include <memory>

#include "base/log.h"
#include "client/session/reply_check.h"

namespace caravan::client {

using wire::Command;

// Adds the endpoint to the error.
Result<> Queries::with_endpoint(Result<> sound) const {
    return sound ? sound : fail(sound.error().code, "{}: {}", queue_.endpoint().text(), sound.error().text);
}

Result<uint32_t> Queries::device_count() {
    const auto count = queue_.query<uint32_t>(Command::device_count);
    const auto sound = count ? with_endpoint(check_device_count(*count)) : Result<>();
    return sound ? count : std::unexpected(sound.error());
}

Result<std::vector<DeviceConstants>> Queries::constants(uint32_t count) {
    constexpr uint32_t devices_per_batch = 16;  // the replies fit into the server's socket buffer
    std::vector<DeviceConstants> all(count);
    auto lock = queue_.lock();
    queue_.begin(lock);
    Commands & commands = queue_.commands();
    Stream & stream = queue_.stream();
    for (uint32_t device = 0; device < count; ++device) {
        DeviceConstants & of = all[device];
        const wire::DeviceRequest request{device};
        commands.post(Command::get_alignment, request);
        stream.expect(mutable_bytes(&of.alignment, sizeof of.alignment));
        commands.post(Command::get_max_size, request);
        stream.expect(mutable_bytes(&of.max_size, sizeof of.max_size));
        if (queue_.is_native()) {
            commands.post(wire::command_device_facts, request);
            stream.expect(mutable_bytes(&of.facts, sizeof of.facts));
        }
        if ((device + 1) % devices_per_batch == 0 || device + 1 == count) {
            if (auto replied = queue_.await_all(lock); !replied) {
                return std::unexpected(replied.error());
            }
        }
    }
    for (const DeviceConstants & of : all) {
        const auto sound = check_alignment(of.alignment).and_then([&] { return check_max_size(of.max_size); });
        if (!sound) {
            return std::unexpected(with_endpoint(sound).error());
        }
    }
    return all;
}

Result<DeviceMemory> Queries::memory(uint32_t device) {
    const auto reply = queue_.query<wire::DeviceMemoryReply>(Command::get_device_memory, wire::DeviceRequest{device});
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (auto sound = with_endpoint(check_memory(*reply)); !sound) {
        return std::unexpected(sound.error());
    }
    return DeviceMemory{std::min<uint64_t>(reply->free, reply->total), reply->total};
}

Result<std::vector<uint64_t>> Queries::alloc_sizes(std::span<const wire::GetAllocSizeRequest> requests) {
    std::vector<uint64_t> sizes(requests.size());
    auto lock = queue_.lock();
    queue_.begin(lock);
    for (size_t i = 0; i < requests.size(); ++i) {
        queue_.commands().post(Command::get_alloc_size, requests[i]);
        queue_.stream().expect(mutable_bytes(&sizes[i], sizeof sizes[i]));
    }
    auto replied = queue_.await_all(lock);
    for (const uint64_t size : sizes) {
        replied = replied.and_then([&] { return with_endpoint(check_alloc_size(size)); });
    }
    return replied ? Result<std::vector<uint64_t>>(std::move(sizes)) : std::unexpected(replied.error());
}

Result<std::vector<uint8_t>> Queries::supports(uint32_t device, std::span<const wire::GraphTensor> tensors) {
    std::vector<std::byte> difference;
    wire::encode_difference({}, tensors, difference);
    const auto n_nodes = std::ranges::count_if(tensors, [](const auto & tensor) { return tensor.is_node != 0; });
    std::vector<uint8_t> replies(static_cast<size_t>(n_nodes));
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (queue_.failure()) {
        return std::unexpected(*queue_.failure());
    }
    Stream & stream = queue_.stream();
    queue_.native().post_native(wire::NativeCommand::supports,
                                wire::SupportsRequest{device, static_cast<uint32_t>(tensors.size())}, difference.size());
    std::ranges::copy(difference, stream.append(difference.size()).begin());
    queue_.await(lock, stream.expect(mutable_bytes(replies.data(), replies.size()), true));
    if (auto refusal = stream.take_refusal()) {
        log_debug("{}: the server refused to report op support: {}", queue_.endpoint().text(), *refusal);
        return std::vector<uint8_t>();
    }
    std::ranges::for_each(replies, [&](uint8_t reply) { queue_.decode_flag(reply); });
    if (queue_.failure()) {
        return std::unexpected(*queue_.failure());
    }
    return replies;
}

Result<uint64_t> Queries::start_spans() { return queue_.query<uint64_t>(static_cast<Command>(wire::NativeCommand::clock)); }

Result<std::vector<wire::Span>> Queries::take_spans(uint64_t since, std::chrono::nanoseconds age) {
    std::vector<wire::Span> out;
    for (uint32_t count = wire::spans_per_reply; count == wire::spans_per_reply && out.size() < wire::max_recorded_spans;) {
        const auto reply = std::make_unique<Result<wire::SpansReply>>(
            queue_.query<wire::SpansReply>(static_cast<Command>(wire::NativeCommand::spans)));
        if (!*reply) {
            return std::unexpected(reply->error());
        }
        count = (*reply)->count;
        const auto sound =
            with_endpoint(check_spans(count, (*reply)->spans, since, static_cast<uint64_t>(age.count())));
        if (!sound) {
            return std::unexpected(sound.error());
        }
        out.insert(out.end(), (*reply)->spans, (*reply)->spans + count);
    }
    return out;
}

}  // namespace caravan::client
