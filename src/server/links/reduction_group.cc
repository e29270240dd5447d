#include "server/links/reduction_group.h"

#include <algorithm>
#include <bit>
#include <limits>

#include "base/formatted.h"
#include "base/size_text.h"
#include "server/links/sums.h"
#include "tunables/links.h"

namespace caravan::server {
namespace {

constexpr size_t floats_per_piece = tunable::reduction_piece / sizeof(float);

MutableBytes bytes_of(std::span<float> data) { return mutable_bytes(data.data(), data.size_bytes()); }

// The part of a tensor that a rank adds up, in elements. A whole number of cache lines, except for the last one.
struct Part {
    size_t begin, size;
};
Part part_of(size_t rank, size_t n_ranks, size_t size) {
    constexpr size_t line = 64 / sizeof(float);
    const size_t each = (size + n_ranks * line - 1) / (n_ranks * line) * line, begin = std::min(size, rank * each);
    return {begin, std::min(each, size - begin)};
}

}  // namespace

struct ReductionGroup::Call {
    std::span<float> data;
    bool is_valid;  // this rank's data, and with doubling the sum so far
    const std::atomic<bool> & is_cancelled;
    wire::Precision precision = wire::Precision::f32;
    std::optional<size_t> invalid{};  // a rank that sent data that is not valid
    bool is_partial = false;          // which may be that of further ranks
};

ReductionGroup::ReductionGroup(size_t rank, const std::vector<net::Transport *> & links, milliseconds patience,
                               std::optional<Algorithm> algorithm, milliseconds leave_time, Framing framing)
    : rank_(rank),
      n_ranks_(links.size()),
      is_fixed_(algorithm || links.size() < 3),
      exchange_(patience, leave_time, framing) {
    for (size_t i = 0; i < links.size(); ++i) {
        if (i != rank) {
            peers_.push_back({.link = links[i], .rank = i, .window = {}, .shared = {}});
        }
    }
    if (is_fixed_) {
        by_size_ = std::vector{algorithm.value_or(Algorithm::direct)};
    }
}

void ReductionGroup::share_memory_with(std::vector<SharingRank> ranks, MemorySource & source) {
    sharing_ = std::move(ranks);
    source_ = &source;
}

size_t ReductionGroup::sharing() const {
    return static_cast<size_t>(std::ranges::count_if(peers_, [](const Peer & peer) { return peer.shared != nullptr; }));
}

uint64_t ReductionGroup::memory_for(uint64_t bytes, wire::Precision precision) const {
    if (!is_fixed_) {
        bytes = std::max<uint64_t>(bytes, tunable::measured_reductions.back());
    }
    const uint64_t windows = std::min<uint64_t>(bytes, tunable::reduction_window) * peers_.size();
    const uint64_t shared = (sharing_.size() + sharing()) * wire::shared_memory_size;
    return windows + shared + (precision == wire::Precision::bf16 ? bytes / 2 + 2 * n_ranks_ * tunable::reduction_piece : 0);
}

std::string ReductionGroup::choice() const {
    std::string out;
    for (size_t i = 0; by_size_ && i < by_size_->size(); ++i) {
        const bool is_next = i + 1 == by_size_->size() || (*by_size_)[i + 1] != (*by_size_)[i];
        if (is_next) {
            out += formatted("{}{}", out.empty() ? "" : ", ", text_of((*by_size_)[i]));
            out += i + 1 == by_size_->size() ? "" : formatted(" up to {}", size_text(tunable::measured_reductions[i]));
        }
    }
    return out;
}

Result<> ReductionGroup::reduce(std::span<float> data, bool is_valid, wire::Precision precision,
                                const std::atomic<bool> & is_cancelled) {
    if (failure_) {
        return std::unexpected(*failure_);
    }
    if (n_ranks_ == 1) {
        precision = wire::Precision::f32;
    }
    Call call{.data = data, .is_valid = is_valid, .is_cancelled = is_cancelled, .precision = precision};
    Result<> done;
    if (!sharing_.empty()) {
        done = share_memory(peers_, sharing_, *source_, exchange_, is_cancelled);
        sharing_.clear();
    }
    done = done && !by_size_ ? measure(is_cancelled) : done;
    if (done && precision == wire::Precision::f32) {
        done = run(algorithm_for(data.size_bytes()), call);
    } else if (done) {  // rounds the same values, whatever the others measured
        done = run(n_ranks_ < 3 ? Algorithm::direct : Algorithm::scatter, call);
    }
    if (!done) {
        leave(done.error());
        return done;
    }
    if (!is_valid) {
        return fail(Errc::unavailable, "this rank could not compute its part of the sum");
    }
    if (call.invalid && call.is_partial) {
        return fail(Errc::unavailable, "another rank of the group could not compute its part of the sum");
    }
    if (call.invalid) {
        return fail(Errc::unavailable, "rank {} of the group could not compute its part of the sum", *call.invalid);
    }
    return {};
}

void ReductionGroup::leave(Error error) {
    failure_ = std::move(error);
    exchange_.leave(peers_, transfers_);
    transfers_.clear();
    for (Peer & peer : peers_) {  // the others have mapped the memory themselves
        if (peer.shared != nullptr) {
            peer.link = &peer.shared->network;
            peer.shared.reset();
        }
    }
}

// All ranks choose alike, because they compare the same sums.
Result<> ReductionGroup::measure(const std::atomic<bool> & is_cancelled) {
    constexpr auto & sizes = tunable::measured_reductions;
    std::vector<float> data(sizes.back() / sizeof(float)),
        times(sizes.size() * n_algorithms, std::numeric_limits<float>::max());
    for (int round = 0; round < tunable::measured_rounds; ++round) {
        for (size_t i = 0; i < times.size(); ++i) {
            Call call{.data = std::span(data).first(sizes[i / n_algorithms] / sizeof(float)), .is_valid = true,
                      .is_cancelled = is_cancelled};
            const TimePoint begin = Clock::now();
            if (auto done = run(static_cast<Algorithm>(i % n_algorithms), call); !done) {
                return done;
            }
            times[i] = std::min(times[i], std::chrono::duration<float>(Clock::now() - begin).count());
        }
    }
    Call call{.data = times, .is_valid = true, .is_cancelled = is_cancelled};
    if (auto done = run(Algorithm::direct, call); !done) {
        return done;
    }
    std::vector<Algorithm> best;
    for (size_t i = 0; i < times.size(); i += n_algorithms) {
        const auto first = times.begin() + static_cast<std::ptrdiff_t>(i);
        best.push_back(static_cast<Algorithm>(std::min_element(first, first + n_algorithms) - first));
    }
    by_size_ = std::move(best);
    return {};
}

std::optional<Algorithm> ReductionGroup::algorithm(uint64_t bytes) const {
    constexpr uint64_t most = uint64_t{1} << 31;  // its square fits; far beyond the measured sizes
    return by_size_ ? std::optional(algorithm_for(std::min(bytes, most))) : std::nullopt;
}

// That of the nearest measured size.
Algorithm ReductionGroup::algorithm_for(size_t bytes) const {
    size_t i = 0;
    while (i + 1 < by_size_->size() && bytes * bytes > tunable::measured_reductions[i] * tunable::measured_reductions[i + 1]) {
        ++i;
    }
    return (*by_size_)[i];
}

Result<> ReductionGroup::run(Algorithm algorithm, Call & call) {
    switch (algorithm) {
        case Algorithm::direct: return run_direct(call);
        case Algorithm::doubling: return run_doubling(call);
        case Algorithm::scatter: return run_scatter(call);
    }
    return {};
}

Peer & ReductionGroup::peer(size_t rank) { return peers_[rank < rank_ ? rank : rank - 1]; }

// Runs `transfers_`.
Result<> ReductionGroup::step(Call & call, size_t size, bool overwrites, const Exchange::Consumer & consume) {
    if (auto done = exchange_.run(transfers_, call.is_valid, size, overwrites, consume, call.is_cancelled); !done) {
        return done;
    }
    for (const Transfer & transfer : transfers_) {
        if (transfer.size && transfer.header.is_valid == 0) {
            call.invalid = call.invalid.value_or(transfer.peer->rank);
        }
    }
    transfers_.clear();
    return {};
}

// Replaces `own` by its sum with what the messages of all other ranks have from byte `begin` on.
void ReductionGroup::sum_windows(const Call & call, std::span<float> own, size_t begin) {
    std::array<float *, wire::max_ranks> terms;
    if (call.precision == wire::Precision::bf16) {
        terms_.resize(n_ranks_ * floats_per_piece * 2);
    }
    for (size_t rank = 0; rank < n_ranks_; ++rank) {
        if (rank == rank_) {
            terms[rank] = own.data();
            continue;
        }
        std::vector<std::byte> & window = peer(rank).window;
        std::byte * const received = window.data() + begin % window.size();
        if (call.precision == wire::Precision::f32) {
            terms[rank] = reinterpret_cast<float *>(received);
        } else {
            terms[rank] = terms_.data() + rank * floats_per_piece * 2;
            from_bfloat16({reinterpret_cast<const uint16_t *>(received), own.size()}, {terms[rank], own.size()});
        }
    }
    if (n_ranks_ == 2) {  // a sum of two does not depend on the order
        add_to(own, {terms[1 - rank_], own.size()});
        return;
    }
    sum_up(std::span(terms).first(n_ranks_), own.size());
    if (rank_ != 0) {
        std::copy_n(terms[0], own.size(), own.data());
    }
}

Result<> ReductionGroup::run_direct(Call & call) {
    MutableBytes data = bytes_of(call.data);
    size_t element = sizeof(float);
    if (call.precision == wire::Precision::bf16) {  // everybody adds up rounded terms
        reduced_.resize(call.data.size());
        to_bfloat16(call.data, reduced_);
        from_bfloat16(reduced_, call.data);
        data = std::as_writable_bytes(std::span(reduced_));
        element = sizeof(uint16_t);
    }
    for (Peer & other : peers_) {
        transfers_.push_back({.peer = &other, .data = data, .size = data.size()});
    }
    return step(call, data.size(), element == sizeof(float), [&](size_t begin, size_t end) {
        sum_windows(call, call.data.subspan(begin / element, (end - begin) / element), begin);
    });
}

// Ranks beyond the largest power of two add theirs to a partner's first, and receive the sum at the end.
Result<> ReductionGroup::run_doubling(Call & call) {
    call.is_partial = true;
    const MutableBytes data = bytes_of(call.data);
    const size_t size = data.size(), pairs = std::bit_floor(n_ranks_);
    const auto add = [&](Peer & from) {
        return [&](size_t begin, size_t end) {
            add_to(call.data.subspan(begin / sizeof(float), (end - begin) / sizeof(float)),
                   {reinterpret_cast<const float *>(from.window.data() + begin % from.window.size()),
                    (end - begin) / sizeof(float)});
        };
    };
    const auto exchange = [&](size_t partner, bool sends, bool receives) {
        Transfer transfer{.peer = &peer(partner)};
        if (sends) {
            transfer.data = data;
        }
        if (receives) {
            transfer.size = size;
        }
        transfers_.push_back(transfer);
        auto done = step(call, receives ? size : 0, sends, add(peer(partner)));
        call.is_valid = call.is_valid && !call.invalid;
        return done;
    };
    if (rank_ >= pairs) {
        if (auto sent = exchange(rank_ - pairs, true, false); !sent) {
            return sent;
        }
        Transfer result{.peer = &peer(rank_ - pairs), .size = size, .target = data.data()};
        transfers_.push_back(result);
        return step(call, 0, false, {});
    }
    const bool has_extra = rank_ + pairs < n_ranks_;
    Result<> done = has_extra ? exchange(rank_ + pairs, false, true) : Result<>();
    for (size_t distance = 1; done && distance < pairs; distance *= 2) {
        done = exchange(rank_ ^ distance, true, true);
    }
    return done && has_extra ? exchange(rank_ + pairs, true, false) : done;
}

Result<> ReductionGroup::run_scatter(Call & call) {
    const bool is_reduced = call.precision == wire::Precision::bf16;
    const size_t element = is_reduced ? sizeof(uint16_t) : sizeof(float);
    MutableBytes data = bytes_of(call.data);
    if (is_reduced) {
        reduced_.resize(call.data.size());
        to_bfloat16(call.data, reduced_);
        data = std::as_writable_bytes(std::span(reduced_));
    }
    const auto bytes_of_rank = [&](size_t rank) {
        const Part part = part_of(rank, n_ranks_, call.data.size());
        return data.subspan(part.begin * element, part.size * element);
    };
    const MutableBytes own = bytes_of_rank(rank_);
    const Part part = part_of(rank_, n_ranks_, call.data.size());
    const std::span<float> sum = call.data.subspan(part.begin, part.size);
    if (is_reduced) {
        from_bfloat16(std::span(reduced_).subspan(part.begin, part.size), sum);
    }
    for (Peer & other : peers_) {
        transfers_.push_back({.peer = &other, .data = bytes_of_rank(other.rank), .size = own.size()});
    }
    if (auto done = step(call, own.size(), false, [&](size_t begin, size_t end) {
            sum_windows(call, sum.subspan(begin / element, (end - begin) / element), begin);
        }); !done) {
        return done;
    }
    if (is_reduced) {
        to_bfloat16(sum, std::span(reduced_).subspan(part.begin, part.size));
    }
    for (Peer & other : peers_) {
        const MutableBytes target = bytes_of_rank(other.rank);
        transfers_.push_back({.peer = &other, .data = own, .size = target.size(), .target = target.data()});
    }
    if (auto done = step(call, 0, false, {}); !done) {
        return done;
    }
    if (is_reduced) {
        from_bfloat16(reduced_, call.data);
    }
    return {};
}

}  // namespace caravan::server
