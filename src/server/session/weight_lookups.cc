#include "server/session/weight_lookups.h"

#include <algorithm>
#include <cstring>
#include <thread>

#include "server/session/session_context.h"

namespace caravan::server {
namespace {

// Each open find has a thread that hashes.
size_t max_open_finds() {
    static const size_t count = std::clamp(std::thread::hardware_concurrency(), 1u, 8u);
    return count;
}

}  // namespace

Result<bool> WeightLookups::find_fnv(CheckedRegion & region, uint64_t size, uint64_t fnv) {
    auto entry = weights_ == nullptr ? std::nullopt : weights_->find(fnv, size);
    if (!entry) {
        return false;
    }
    return load(region, size, *entry).transform([&] { return verify(region, size, *entry); });
}

Result<> WeightLookups::find_digest(CheckedRegion & region, uint64_t size, ConstBytes digest) {
    return open(region, size, [&] { return weights_->find_digest(cache::hex_of(digest), size); });
}

Result<> WeightLookups::find_part(CheckedRegion & region, const cache::Rows & part, ConstBytes digest,
                                  ConstBytes tensor_digest, uint64_t tensor_size) {
    return open(region, part.bytes(), [&] {
        return weights_->find_part(cache::hex_of(digest), part, cache::hex_of(tensor_digest), tensor_size);
    });
}

template <class Search>
Result<> WeightLookups::open(CheckedRegion & region, uint64_t size, Search search) {
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
    open.entry = weights_ == nullptr ? std::nullopt : search();
    return open.entry ? load(region, size, *open.entry) : Result<>();
}

Result<> WeightLookups::reply_to_finds() {
    Result<> done;
    for (OpenFind & open : open_finds_) {
        const bool found = open.entry && verify(open.region, open.size, *open.entry);
        done = done ? context_.replies.send<uint8_t>(found ? 1 : 0) : done;
    }
    open_finds_.clear();
    return done;
}

bool WeightLookups::verify(CheckedRegion & region, uint64_t size, cache::Reader & entry) {
    if (entry.verify()) {
        (entry.from_model() ? from_models_ : from_cache_) += size;
        context_.clear_stale(region, region.offset, size);
        return true;
    }
    if (region.region.buffer->is_host) {
        std::memset(region.region.data(), 0, size);
        return false;
    }
    // Some back-ends lack ggml_backend_tensor_memset().
    (void) context_.staging.write(region.tensor, region.offset, size, [](MutableBytes piece) -> Result<size_t> {
        std::ranges::fill(piece, std::byte{0});
        return piece.size();
    });
    return false;
}

Result<> WeightLookups::load(CheckedRegion & region, uint64_t size, cache::Reader & entry) {
    if (auto waited = context_.synchronize(region.device()); !waited) {
        return waited;
    }
    const bool is_host = region.region.buffer->is_host;
    const bool has_pages = !region.region.buffer->memory.bytes().empty();
    uint64_t done = has_pages ? entry.map(MutableBytes(region.region.data(), size)) : 0;
    if (done == 0) {
        context_.buffers.expect_write(*region.region.buffer, region.region.offset, size);
    }
    const auto read = [&](MutableBytes piece) -> Result<size_t> { return entry.read(piece, is_host).value_or(0); };
    if (!is_host) {
        return context_.staging.write(region.tensor, region.offset, size, read).transform([](uint64_t) {});
    }
    while (done < size) {
        const auto got = read({region.region.data() + done, size - done});
        if (*got == 0) {
            break;
        }
        done += *got;
    }
    return {};
}

}  // namespace caravan::server
