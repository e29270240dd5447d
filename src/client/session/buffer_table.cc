#include "client/session/buffer_table.h"

#include <algorithm>

#include "base/size_text.h"
#include "client/session/reply_check.h"

namespace caravan::client {

using wire::Command;

namespace {

Range addresses_of(const RemoteBuffer & buffer) { return {buffer.base, buffer.base + buffer.size}; }

}  // namespace

Result<RemoteBuffer> BufferTable::alloc(uint32_t device, uint64_t size, uint64_t alignment) {
    auto reply = queue_.query<wire::AllocBufferReply>(Command::alloc_buffer, wire::AllocBufferRequest{device, size});
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->buffer == 0) {
        return fail(Errc::no_memory, "{}: the server cannot allocate {} on its device {}", queue_.endpoint().text(),
                    size_text(size), device);
    }
    const auto base = queue_.query<uint64_t>(Command::buffer_get_base, wire::BufferRequest{reply->buffer});
    if (!base) {
        return std::unexpected(base.error());
    }
    auto sound = check_buffer(*reply, *base, size, alignment);
    auto lock = queue_.lock();
    if (sound && buffers_.contains(reply->buffer)) {
        sound = fail(Errc::protocol, "the server used the handle {:#x} for two buffers", uint64_t{reply->buffer});
    }
    if (!sound) {
        return fail(sound.error().code, "{}: {}", queue_.endpoint().text(), sound.error().text);
    }
    const RemoteBuffer buffer{reply->buffer, *base, reply->size};
    if (std::ranges::any_of(buffers_, [&](const auto & other) {
            return addresses_of(other.second.remote).overlaps(addresses_of(buffer));
        })) {
        queue_.begin(lock);
        queue_.stop_holding();
    }
    buffers_[buffer.handle].remote = buffer;
    return buffer;
}

void BufferTable::free(const RemoteBuffer & buffer) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    queue_.idle_writes().forget(addresses_of(buffer));
    if (queue_.failure()) {
        return;
    }
    buffers_.erase(buffer.handle);
    queue_.undelivered().record_write(addresses_of(buffer), true);
    queue_.commands().post(Command::free_buffer, wire::BufferRequest{buffer.handle});
    queue_.commands().forget_graphs();
    queue_.flush(lock);
}

void BufferTable::clear(const RemoteBuffer & buffer, uint8_t value) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    queue_.idle_writes().forget(addresses_of(buffer));
    queue_.undelivered().record_write(addresses_of(buffer), true);
    if (!queue_.failure()) {
        queue_.commands().post(Command::buffer_clear, wire::BufferClearRequest{buffer.handle, value});
    }
}

uint64_t BufferTable::size_of(uint64_t handle) const {
    const auto buffer = buffers_.find(handle);
    return buffer == buffers_.end() ? 0 : buffer->second.remote.size;
}

void BufferTable::record_unmarked_write(uint64_t handle, uint64_t bytes, TimePoint begin) {
    const auto buffer = buffers_.find(handle);
    if (buffer == buffers_.end()) {
        return;
    }
    Buffer & written = buffer->second;
    written.first = written.unmarked == 0 ? begin : written.first;
    written.last = Clock::now();
    written.unmarked += bytes;
    has_unmarked_writes_.store(true, std::memory_order_relaxed);
}

void BufferTable::mark_as_weights(const RemoteBuffer & buffer) {
    auto lock = queue_.lock();
    const auto found = buffers_.find(buffer.handle);
    if (found == buffers_.end() || found->second.unmarked == 0) {
        return;
    }
    Buffer & written = found->second;
    queue_.uploads().loading().begin(buffer.handle, buffer.size, written.first);
    queue_.uploads().loading().add(written.unmarked, false, written.last);
    written.unmarked = 0;
}

}  // namespace caravan::client
