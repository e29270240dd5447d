#include "server/data.h"

#include <algorithm>
#include <thread>

namespace caravan::server {
namespace {

// Pieces by which device memory that is not host-addressable is copied, bytes.
constexpr size_t piece_size = 4 << 20;

// Each open find has a thread that hashes.
size_t max_open_finds() {
    static const size_t count = std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
    return count;
}

}  // namespace

MutableBytes Data::scratch(uint64_t size) {
    const size_t piece = std::min<uint64_t>(size, piece_size);
    scratch_.resize(std::max(scratch_.size(), piece));
    return MutableBytes(scratch_).first(piece);
}

Result<> Data::reply_bytes(ConstBytes payload) {
    const uint64_t size = payload.size();
    bytes_out_ += sizeof size + size;
    return net::send_all(transport_, {const_bytes(&size, sizeof size), payload}, client_stall);
}

Result<> Data::reply_text(wire::AnswerKind kind, std::string_view text) {
    text = text.substr(0, wire::max_error_text);
    const uint64_t head = static_cast<uint64_t>(kind) << wire::answer_kind_shift | text.size();
    bytes_out_ += sizeof head + text.size();
    return net::send_all(transport_, {const_bytes(&head, sizeof head), const_bytes(text.data(), text.size())},
                         client_stall);
}

Result<> Data::report_failure(Result<> launch) {
    return launch || !is_native_ ? launch : reply_text(wire::AnswerKind::launch_failed, launch.error().text);
}

void Data::clear_stale(const CheckedRegion & region, uint64_t offset, uint64_t size) {
    stale_.clear(region.address + offset, region.address + offset + size);
}

Result<> Data::write(net::Inbound & source, CheckedRegion & region, uint64_t size, bool keep) {
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    std::optional<cache::Writer> writer;
    if (keep && weights_ != nullptr && size > wire::find_threshold) {
        // A native client queries by BLAKE3, a stock client by FNV-1a.
        if (auto begun = weights_->begin(size, is_native_ ? cache::Keys::digest : cache::Keys::digest_and_fnv)) {
            writer.emplace(std::move(*begun));
        }
    }
    buffers_.expect_write(*region.region.buffer, region.region.offset, size);
    const bool is_host = region.region.buffer->is_host;
    for (uint64_t done = 0; done < size;) {
        const uint64_t rest = size - done;
        const MutableBytes dest =
            is_host ? MutableBytes(region.region.data() + done, writer ? std::min<uint64_t>(rest, piece_size) : rest)
                    : scratch(rest);
        if (auto read = source.read_into(dest); !read) {
            return read;
        }
        if (!is_host) {
            ggml_backend_tensor_set(&region.tensor, dest.data(), region.offset + done, dest.size());
        }
        if (writer) {
            writer->append(dest);
        }
        done += dest.size();
    }
    if (writer) {
        writer->commit();
    }
    weight_bytes_.received += keep && size > wire::find_threshold ? size : 0;
    clear_stale(region, region.offset, size);
    return {};
}

Result<> Data::write_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride) {
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    const bool is_host = region.region.buffer->is_host;
    for (uint64_t row = 0; row < n_rows && size > 0; ++row) {
        for (uint64_t done = 0; done < size;) {
            const uint64_t at = row * stride + done;
            const MutableBytes dest =
                is_host ? MutableBytes(region.region.data() + at, size - done) : scratch(size - done);
            if (auto read = in_.read_into(dest); !read) {
                return read;
            }
            if (!is_host) {
                ggml_backend_tensor_set(&region.tensor, dest.data(), region.offset + at, dest.size());
            }
            done += dest.size();
        }
        clear_stale(region, region.offset + row * stride, size);
    }
    return {};
}

Result<> Data::read(CheckedRegion & region, uint64_t size) {
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    if (region.region.buffer->is_host) {
        return reply_bytes(ConstBytes(region.region.data(), size));
    }
    bytes_out_ += sizeof size + size;
    if (auto sent = net::send_all(transport_, {const_bytes(&size, sizeof size)}, client_stall); !sent) {
        return sent;
    }
    for (uint64_t done = 0; done < size;) {
        const MutableBytes piece = scratch(size - done);
        ggml_backend_tensor_get(&region.tensor, piece.data(), region.offset + done, piece.size());
        if (auto sent = net::send_all(transport_, {piece}, client_stall); !sent) {
            return sent;
        }
        done += piece.size();
    }
    return {};
}

Result<> Data::read_rows(CheckedRegion & region, uint64_t size, uint64_t n_rows, uint64_t stride) {
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    const uint64_t all = size * n_rows;
    bytes_out_ += sizeof all + all;
    const MutableBytes piece = scratch(all);
    ConstBytes head = const_bytes(&all, sizeof all);
    size_t filled = 0;
    const auto flush = [&] {
        auto sent = net::send_all(transport_, {head, piece.first(filled)}, client_stall);
        head = {};
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
    return head.empty() && filled == 0 ? Result<>() : flush();
}

Result<> Data::read_to(CheckedRegion & region, const std::function<Result<>(ConstBytes)> & sink) {
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    if (region.region.buffer->is_host) {
        return sink(ConstBytes(region.region.data(), region.tensor_bytes));
    }
    for (uint64_t done = 0; done < region.tensor_bytes;) {
        const MutableBytes piece = scratch(region.tensor_bytes - done);
        ggml_backend_tensor_get(&region.tensor, piece.data(), done, piece.size());
        if (auto taken = sink(piece); !taken) {
            return taken;
        }
        done += piece.size();
    }
    return {};
}

Result<> Data::fill(CheckedRegion & region, uint64_t size, uint8_t value) {
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    if (size > 0) {
        ggml_backend_tensor_memset(&region.tensor, value, region.offset, size);
        clear_stale(region, region.offset, size);
    }
    return {};
}

Result<> Data::copy(CheckedRegion & from, CheckedRegion & to) {
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
    if (auto waited = synchronize(from.device()).and_then([&] { return synchronize(to.device()); }); !waited) {
        return waited;
    }
    ggml_backend_tensor_copy(&from.tensor, &to.tensor);
    if (is_stale(from)) {
        stale_.mark(to.address, to.address + to.tensor_bytes);
    } else {
        clear_stale(to, 0, to.tensor_bytes);
    }
    return {};
}

Result<> Data::initialize(CheckedRegion & region, const wire::Region & wired) {
    if (region.tensor_bytes == 0) {
        return {};  // has no padding either
    }
    // The back-end may clear the padding behind the tensor, which must lie in the buffer as well.
    const size_t padded = ggml_backend_buffer_get_alloc_size(region.region.buffer->buffer.get(), &region.tensor);
    if (auto room = buffers_.locate(wired.buffer, wired.address, padded); !room) {
        return std::unexpected(room.error());
    }
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    const ggml_status status = ggml_backend_buffer_init_tensor(region.region.buffer->buffer.get(), &region.tensor);
    if (status != GGML_STATUS_SUCCESS) {
        return fail(Errc::unsupported, "the back-end cannot initialize the tensor: {}", ggml_status_to_string(status));
    }
    return {};
}

Result<bool> Data::find_fnv(CheckedRegion & region, uint64_t size, uint64_t fnv) {
    auto entry = weights_ == nullptr ? std::nullopt : weights_->find(fnv, size);
    if (!entry) {
        return false;
    }
    return load(region, size, *entry).transform([&] { return verify(region, size, *entry); });
}

Result<> Data::find_digest(CheckedRegion & region, uint64_t size, ConstBytes digest) {
    const bool is_host = region.region.buffer->is_host;
    const MutableBytes place = is_host ? MutableBytes(region.region.data(), size) : MutableBytes();
    const bool is_taken = std::ranges::any_of(open_finds_, [&](const OpenFind & open) {
        return open.place.data() < place.data() + place.size() && place.data() < open.place.data() + open.place.size();
    });
    if (is_taken || open_finds_.size() >= max_open_finds()) {
        if (auto waited = reply_to_finds(); !waited) {
            return waited;
        }
    }
    OpenFind & open = open_finds_.emplace_back(OpenFind{.entry = {}, .region = region, .size = size, .place = place});
    open.entry = weights_ == nullptr ? std::nullopt : weights_->find_digest(cache::hex_of(digest), size);
    return open.entry ? load(region, size, *open.entry) : Result<>();
}

Result<> Data::reply_to_finds() {
    Result<> done;
    for (OpenFind & open : open_finds_) {
        const bool found = open.entry && verify(open.region, open.size, *open.entry);
        done = done ? reply<uint8_t>(found ? 1 : 0) : done;
    }
    open_finds_.clear();
    return done;
}

bool Data::verify(CheckedRegion & region, uint64_t size, cache::Reader & entry) {
    if (entry.verify()) {
        (entry.from_model() ? weight_bytes_.from_models : weight_bytes_.from_cache) += size;
        clear_stale(region, region.offset, size);
        return true;
    }
    if (region.region.buffer->is_host) {
        std::memset(region.region.data(), 0, size);
        return false;
    }
    // Some back-ends lack ggml_backend_tensor_memset().
    std::ranges::fill(scratch(size), std::byte{0});
    for (uint64_t done = 0; done < size;) {
        const MutableBytes zeros = scratch(size - done);
        ggml_backend_tensor_set(&region.tensor, zeros.data(), region.offset + done, zeros.size());
        done += zeros.size();
    }
    return false;
}

Result<> Data::load(CheckedRegion & region, uint64_t size, cache::Reader & entry) {
    if (auto waited = synchronize(region.device()); !waited) {
        return waited;
    }
    const bool is_host = region.region.buffer->is_host;
    const bool has_pages = !region.region.buffer->memory.bytes().empty();
    uint64_t done = has_pages ? entry.map(MutableBytes(region.region.data(), size)) : 0;
    if (done == 0) {
        buffers_.expect_write(*region.region.buffer, region.region.offset, size);
    }
    while (done < size) {
        const MutableBytes piece =
            is_host ? MutableBytes(region.region.data() + done, size - done) : scratch(size - done);
        const auto got = entry.read(piece, is_host);
        if (!got || *got == 0) {
            break;
        }
        if (!is_host) {
            ggml_backend_tensor_set(&region.tensor, piece.data(), region.offset + done, *got);
        }
        done += *got;
    }
    return {};
}

}  // namespace caravan::server
