#include "client/session/weight_uploads.h"

#include <algorithm>

namespace caravan::client {
namespace {

wire::FindPartRequest part_request(const KnownDigests::Known & known) {
    const cache::Rows & part = known.whole->part;
    wire::FindPartRequest request{.slot = 0, .offset = 0, .at = part.offset, .size = part.size, .count = part.count,
                                  .stride = part.stride, .tensor_size = known.whole->size, .digest = {}, .tensor_digest = {}};
    std::ranges::copy(known.digest, request.digest);
    std::ranges::copy(known.whole->digest, request.tensor_digest);
    return request;
}

uint64_t stock_hash(const WeightRows & data) {
    uint64_t hash = wire::fnv1a_start;
    data.for_each_piece([&](ConstBytes piece) { hash = wire::fnv1a(piece, hash); });
    return hash;
}

}  // namespace

using wire::Command;

WeightUploads::WeightUploads(CommandStream & stream)
    : stream_(stream), loading_(stream.endpoint().text(), stderr_terminal()) {}

void WeightUploads::upload(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset,
                           const WeightRows & data, uint64_t buffer_size) {
    const bool is_hashed = data.size() > (stream_.is_native() ? wire::find_threshold : wire::hash_threshold);
    loading_.begin(region.buffer, buffer_size, Clock::now());
    if (!is_hashed || !find_on_server(lock, region, range, offset, data)) {
        send(lock, region, offset, data, is_hashed);
        loading_.add(data.size(), false, Clock::now());
    }
}

void WeightUploads::send(Lock & lock, const wire::Region & region, uint64_t offset, const WeightRows & data, bool keep) {
    if (data.is_contiguous()) {
        stream_.write(lock, region, offset, data.with_gaps(), keep);
    } else {
        stream_.write(lock, region, offset, data.packed(), keep);
    }
}

// Whether to hash a weight and query the server for it. A native server reports whether it keeps weights.
bool WeightUploads::should_look_up(Lock & lock) {
    if (stream_.is_native() && !lookup_.is_cache_known()) {
        stream_.commands().post(static_cast<Command>(wire::NativeCommand::facts));
        wire::SessionFacts facts{};
        stream_.await(lock, stream_.stream().expect(mutable_bytes(&facts, sizeof facts)));
        lookup_.set_cache(stream_.decode_flag(facts.has_cache), facts.finds_parts == 1);
    }
    return lookup_.is_worthwhile();
}

// A weight whose reply is not awaited counts as loaded once that reply was processed.
bool WeightUploads::find_on_server(Lock & lock, const wire::Region & region, const Range & range, uint64_t offset,
                                   const WeightRows & data) {
    if (!should_look_up(lock)) {
        return false;
    }
    if (stream_.is_native()) {
        auto known = lookup_.digest_of(data);
        if (known.whole) {
            stream_.native().find_part(region, offset, part_request(known));
        } else {
            stream_.native().find(region, offset, data.size(), known.digest);
        }
        if (lookup_.expects_hit() && known.source) {
            auto & find = lookup_.add({region, range, offset, std::move(*known.source)});
            find.ticket = stream_.stream().expect(mutable_bytes(&find.found, sizeof find.found));
            stream_.flush(lock);
            complete(lock, WeightLookup::max_pending);
            return true;
        }
    } else {
        stream_.commands().post(Command::set_tensor_hash,
                                wire::SetTensorHashRequest{stock_tensor(region), offset, stock_hash(data)});
    }
    uint8_t found = 0;
    stream_.await(lock, stream_.stream().expect(mutable_bytes(&found, sizeof found)));
    const bool is_hit = stream_.decode_flag(found);
    lookup_.record(is_hit);
    if (!is_hit || stream_.failure()) {
        return false;
    }
    loading_.add(data.size(), true, Clock::now());
    return true;
}

void WeightUploads::complete(Lock & lock, size_t left) {
    while (lookup_.pending() > left) {
        const uint64_t taken = lookup_.taken();
        stream_.await(lock, lookup_.oldest().ticket);
        stream_.relays().fill_before(lock, UINT64_MAX);  // so that the write below is queued before the lock is released
        if (lookup_.taken() != taken) {
            continue;
        }
        const WeightLookup::PendingFind find = lookup_.take_oldest();
        const bool is_hit = stream_.decode_flag(find.found);
        lookup_.record(is_hit);
        if (stream_.failure()) {
            continue;
        }
        if (is_hit) {
            loading_.add(find.source.rows.bytes(), true, Clock::now());
            continue;
        }
        const auto weights = map_weights(find.source);
        if (!weights) {
            stream_.close(weights.error());
            return;
        }
        const cache::Rows & rows = find.source.rows;
        send(lock, find.region, find.offset, {weights->bytes().data(), rows.size, rows.count, rows.stride}, true);
        loading_.add(rows.bytes(), false, Clock::now());
    }
}

}  // namespace caravan::client
