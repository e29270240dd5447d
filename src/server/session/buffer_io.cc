#include "server/session/buffer_io.h"

#include <algorithm>
#include <optional>

#include "server/session/session_context.h"
#include "tunables/session.h"

namespace caravan::server {

Result<> BufferIo::write(net::Inbound & source, CheckedRegion & region, uint64_t size, bool keep) {
    if (auto waited = context_.synchronize(region.device()); !waited) {
        return waited;
    }
    std::optional<cache::Writer> writer;
    if (keep && context_.cache != nullptr && size > wire::find_threshold) {
        // A native client queries by BLAKE3, a stock client by FNV-1a.
        const auto keys = context_.replies.is_native() ? cache::Keys::digest : cache::Keys::digest_and_fnv;
        if (auto begun = context_.cache->begin(size, keys)) {
            writer.emplace(std::move(*begun));
        }
    }
    context_.buffers.expect_write(*region.region.buffer, region.region.offset, size);
    const auto receive = [&](MutableBytes piece) {
        return source.read_into(piece).transform([&] {
            if (writer) {
                writer->append(piece);
            }
            return piece.size();
        });
    };
    if (!region.region.buffer->is_host) {
        if (auto written = context_.staging.write(region.tensor, region.offset, size, receive); !written) {
            return std::unexpected(written.error());
        }
    } else {
        const uint64_t step = writer ? tunable::cached_piece : size;
        for (uint64_t done = 0; done < size; done += step) {
            if (auto got = receive({region.region.data() + done, std::min(step, size - done)}); !got) {
                return std::unexpected(got.error());
            }
        }
    }
    if (writer) {
        writer->commit();
    }
    weights_received_ += keep && size > wire::find_threshold ? size : 0;
    context_.clear_stale(region, region.offset, size);
    return {};
}

Result<> BufferIo::write_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride) {
    if (auto waited = context_.synchronize(region.device()); !waited) {
        return waited;
    }
    const bool is_host = region.region.buffer->is_host;
    for (uint64_t row = 0; row < n_rows && size > 0; ++row) {
        for (uint64_t done = 0; done < size;) {
            const uint64_t at = row * stride + done;
            const MutableBytes dest =
                is_host ? MutableBytes(region.region.data() + at, size - done) : context_.staging.piece(size - done);
            if (auto read = context_.in.read_into(dest); !read) {
                return read;
            }
            if (!is_host) {
                ggml_backend_tensor_set(&region.tensor, dest.data(), region.offset + at, dest.size());
            }
            done += dest.size();
        }
        context_.clear_stale(region, region.offset + row * stride, size);
    }
    return {};
}

Result<ConstBytes> BufferIo::wait_and_read(CheckedRegion & region, uint64_t size) {
    const bool is_read = !region.region.buffer->is_host && size <= tunable::staging_size;
    const MutableBytes piece = is_read ? context_.staging.piece(size) : MutableBytes();
    return context_.synchronize_and_read(region.device(), region.tensor, region.offset, piece).transform([&] {
        return ConstBytes(piece);
    });
}

Result<> BufferIo::read(CheckedRegion & region, uint64_t size) {
    const auto all = wait_and_read(region, size);
    if (!all) {
        return std::unexpected(all.error());
    }
    if (region.region.buffer->is_host) {
        return context_.replies.send_bytes(ConstBytes(region.region.data(), size));
    }
    if (all->size() == size) {
        return context_.replies.send_bytes(*all);
    }
    if (auto sent = context_.replies.begin(size); !sent) {
        return sent;
    }
    return context_.staging.read(region.tensor, region.offset, size,
                                 [&](ConstBytes piece) { return context_.replies.append(piece); });
}

Result<> BufferIo::read_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride) {
    if (auto waited = context_.synchronize(region.device()); !waited) {
        return waited;
    }
    const uint64_t all = size * n_rows;
    const MutableBytes piece = context_.staging.piece(all);
    bool begun = false;
    size_t filled = 0;
    const auto flush = [&] {
        auto sent = begun ? context_.replies.append(piece.first(filled)) : context_.replies.begin(all, piece.first(filled));
        begun = true;
        filled = 0;
        return sent;
    };
    for (uint64_t row = 0; row < n_rows && size > 0; ++row) {
        for (uint64_t done = 0; done < size;) {
            const size_t part = std::min<uint64_t>(size - done, piece.size() - filled);
            ggml_backend_tensor_get(&region.tensor, piece.data() + filled, region.offset + row * stride + done, part);
            filled += part;
            done += part;
            if (filled == piece.size()) {
                if (auto sent = flush(); !sent) {
                    return sent;
                }
            }
        }
    }
    return begun && filled == 0 ? Result<>() : flush();
}

Result<> BufferIo::read_to(CheckedRegion & region, const std::function<Result<>(ConstBytes)> & sink) {
    if (auto waited = context_.synchronize(region.device()); !waited) {
        return waited;
    }
    if (region.region.buffer->is_host) {
        return sink(ConstBytes(region.region.data(), region.tensor_bytes));
    }
    return context_.staging.read(region.tensor, 0, region.tensor_bytes, sink);
}

Result<> BufferIo::fill(CheckedRegion & region, uint64_t size, uint8_t value) {
    if (auto waited = context_.synchronize(region.device()); !waited) {
        return waited;
    }
    if (size > 0) {
        ggml_backend_tensor_memset(&region.tensor, value, region.offset, size);
        context_.clear_stale(region, region.offset, size);
    }
    return {};
}

Result<> BufferIo::copy(CheckedRegion & from, CheckedRegion & to) {
    if (from.tensor_bytes == 0 && to.tensor_bytes == 0) {
        return {};
    }
    const bool same_layout = from.tensor.type == to.tensor.type && std::ranges::equal(from.tensor.ne, to.tensor.ne) &&
                             std::ranges::equal(from.tensor.nb, to.tensor.nb);
    if (!same_layout) {
        return fail(Errc::invalid_argument, "source and destination differ in type, shape or strides");
    }
    const auto source = from.region.data(), destination = to.region.data();
    if (from.region.buffer == to.region.buffer && source != destination && source < destination + to.tensor_bytes &&
        destination < source + from.tensor_bytes) {
        return fail(Errc::invalid_argument, "source and destination overlap");
    }
    auto waited = context_.synchronize(from.device()).and_then([&] { return context_.synchronize(to.device()); });
    if (!waited) {
        return waited;
    }
    ggml_backend_tensor_copy(&from.tensor, &to.tensor);
    if (context_.is_stale(from)) {
        context_.stale.mark(to.address, to.address + to.tensor_bytes);
    } else {
        context_.clear_stale(to, 0, to.tensor_bytes);
    }
    return {};
}

Result<> BufferIo::initialize(CheckedRegion & region, const wire::Region & wired) {
    if (region.tensor_bytes == 0) {
        return {};  // has no padding either
    }
    // The back-end may clear the padding behind the tensor, which must lie in the buffer as well.
    const size_t padded = ggml_backend_buffer_get_alloc_size(region.region.buffer->buffer.get(), &region.tensor);
    if (auto room = context_.buffers.locate(wired.buffer, wired.address, padded); !room) {
        return std::unexpected(room.error());
    }
    if (auto waited = context_.synchronize(region.device()); !waited) {
        return waited;
    }
    const ggml_status status = ggml_backend_buffer_init_tensor(region.region.buffer->buffer.get(), &region.tensor);
    if (status != GGML_STATUS_SUCCESS) {
        return fail(Errc::unsupported, "the back-end cannot initialize the tensor: {}", ggml_status_to_string(status));
    }
    return {};
}

}  // namespace caravan::server
