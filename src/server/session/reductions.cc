#include "server/session/reductions.h"

#include <algorithm>
#include <array>
#include <utility>

#include "base/log.h"
#include "server/session/session_context.h"
#include "wire/reduction_spans.h"

namespace caravan::server {
namespace {

bool is_contiguous_f32(const ggml_tensor & tensor) { return tensor.type == GGML_TYPE_F32 && ggml_is_contiguous(&tensor); }

std::span<float> floats_of(const CheckedRegion & region) {
    return {reinterpret_cast<float *>(region.region.data()), region.tensor_bytes / sizeof(float)};
}

}  // namespace

void Reductions::drop_links(std::span<const uint64_t> tokens, std::span<const uint16_t> numbers) {
    std::ranges::for_each(tokens, [&](uint64_t token) { context_.links->drop_receiver(token); });
    std::ranges::for_each(numbers, [&](uint16_t number) { context_.links->drop_sender(number); });
}

void Reductions::free_failed() {
    std::erase_if(groups_, [&](const auto & entry) {
        const auto & [number, group] = entry;
        if (group.has_failed) {
            freed_.set(number);
            drop_links(group.tokens, group.numbers);
        }
        return group.has_failed;
    });
}

Result<> Reductions::form(const wire::GroupRequest & request, std::span<const wire::GroupPeer> peers) {
    free_failed();
    const uint16_t group = request.group;
    if (groups_.contains(group) || groups_.size() >= wire::max_groups) {
        return fail(Errc::invalid_argument, "group {} already exists, or there are too many groups", group);
    }
    const uint16_t patience = request.patience;
    if (peers.empty() || request.n_ranks != peers.size() || request.rank >= request.n_ranks || patience == 0) {
        return fail(Errc::invalid_argument, "a group of {} ranks with {} peers, patience {} s", request.n_ranks, peers.size(),
                    patience);
    }
    std::vector<net::Transport *> links(peers.size());
    std::vector<uint64_t> tokens;
    std::vector<uint16_t> numbers;
    std::vector<SharingRank> sharing;
    for (size_t i = 0; i < peers.size(); ++i) {
        if (i == request.rank) {
            continue;
        }
        const uint64_t token = peers[i].token;
        if (context_.links == nullptr) {
            return fail(Errc::unavailable, "this server offers no links");
        }
        if (token != 0) {
            LinkReceiver * receiver = context_.links->receiver(token);
            if (receiver != nullptr && (links[i] = receiver->take_over()) != nullptr) {
                tokens.push_back(token);
                if (receiver->shares_memory()) {
                    sharing.push_back({.rank = i, .opened = false});
                }
            }
        } else if (LinkSender * sender = context_.links->sender(peers[i].link)) {
            if ((links[i] = sender->take_over()) != nullptr) {
                numbers.push_back(peers[i].link);
                if (sender->shares_memory()) {
                    sharing.push_back({.rank = i, .opened = true});
                }
            }
        }
        if (links[i] == nullptr) {
            drop_links(tokens, numbers);
            return fail(Errc::not_found, "no unused link with rank {}", i);
        }
    }
    ReductionGroup ranks(request.rank, std::move(links), std::min<seconds>(seconds(patience), tunable::max_reduction_patience));
    ranks.interrupt_by([this](TimePoint since) {
        auto goes_on = context_.in.check_silence(since);
        if (!goes_on) {
            session_end_ = goes_on.error();
        }
        return goes_on;
    });
    if (!sharing.empty() && context_.links->memory != nullptr) {
        ranks.share_memory_with(std::move(sharing), *context_.links->memory);
    }
    groups_.emplace(group, Group{.ranks = std::move(ranks),
                                 .claim = {},
                                 .tokens = std::move(tokens),
                                 .numbers = std::move(numbers)});
    freed_.reset(group);
    return {};
}

Result<wire::AlgorithmReply> Reductions::algorithm(const wire::AlgorithmRequest & request) const {
    const auto group = groups_.find(request.group);
    if (group == groups_.end()) {
        return fail(Errc::not_found, "no group {}", static_cast<uint16_t>(request.group));
    }
    const auto algorithm = group->second.ranks.algorithm(request.bytes);
    return wire::AlgorithmReply{.algorithm = algorithm ? static_cast<uint8_t>(*algorithm) : wire::no_algorithm,
                                .sharing = static_cast<uint8_t>(group->second.ranks.sharing()),
                                .unused = {}};
}

Result<> Reductions::check(const wire::ReduceRequest & request, std::span<const Term> terms) const {
    if (const uint16_t group = request.group; !groups_.contains(group) && !freed_[group]) {
        return fail(Errc::not_found, "no group {}", group);
    }
    if (request.precision != wire::Precision::f32 && request.precision != wire::Precision::bf16) {
        return fail(Errc::invalid_argument, "a reduction with precision {}", static_cast<int>(request.precision));
    }
    for (const Term & term : terms) {
        if (!is_contiguous_f32(term.region.tensor) || term.region.tensor_bytes != terms.front().region.tensor_bytes) {
            return fail(Errc::invalid_argument, "the tensors of a reduction must be contiguous f32 tensors of equal size");
        }
    }
    return {};
}

Result<> Reductions::reduce(const wire::ReduceRequest & request, std::span<Term> terms, bool is_valid) {
    const auto group = groups_.find(request.group);
    auto reduced = group == groups_.end()
                       ? Result<>(fail(Errc::unavailable, "an earlier reduction of the group failed, and it was freed"))
                       : reduce_in_memory(group->second, request.precision, terms, is_valid);
    if (group != groups_.end() && !reduced) {
        const bool is_first = !std::exchange(group->second.has_failed, true);
        if (is_first && !session_end_ && !context_.devices.is_aborted()) {
            const ReductionGroup & ranks = group->second.ranks;
            log_warning("a sum over {} servers failed at this one, rank {}: {}", ranks.size(), ranks.rank(),
                        reduced.error().text);
        }
    }
    for (Term & term : terms) {
        if (term.region.tensor_bytes == 0) {
            continue;  // and perhaps no buffer
        }
        if (reduced) {
            context_.clear_stale(term.region, 0, term.region.tensor_bytes);
        } else {
            context_.stale.mark(term.region.address, term.region.address + term.region.tensor_bytes);
        }
    }
    return reduced;
}

// Claims the memory for a reduction; returns the part that is only used during it.
Result<MemoryClaim> Reductions::claim(Group & group, wire::Precision precision, uint64_t bytes, bool is_in_place) {
    if (const uint64_t needed = group.ranks.memory_for(bytes, precision); needed > group.claimed) {
        group.claim = {};
        auto kept = context_.memory.claim_host(needed, "to add up tensors with other servers");
        if (!kept) {
            return kept;
        }
        group.claim = std::move(*kept);
        group.claimed = needed;
    }
    return context_.memory.claim_host(is_in_place ? 0 : 2 * bytes, "to add up tensors of several devices");
}

// Records the parts of reductions from the time on that the client records spans.
void Reductions::observe(Group & group) {
    if (!context_.spans.is_recording() || std::exchange(group.is_observed, true)) {
        return;
    }
    group.ranks.observe([this](Exchange::Phase phase, TimePoint begin, TimePoint end) {
        constexpr std::array spans{wire::ReductionSpan::wait, wire::ReductionSpan::transfer, wire::ReductionSpan::add};
        context_.spans.record(static_cast<uint8_t>(spans[static_cast<size_t>(phase)]), begin, end);
    });
}

Result<> Reductions::exchange(Group & group, wire::Precision precision, std::span<float> data, bool is_valid) {
    observe(group);
    auto reduced = group.ranks.reduce(data, is_valid, precision, context_.devices.is_aborted());
    if (!std::exchange(group.is_logged, true)) {
        log_debug("All-reduce over {} servers: {}", group.ranks.size(), group.ranks.choice());
    }
    return reduced;
}

Result<> Reductions::reduce_in_memory(Group & group, wire::Precision precision, std::span<Term> terms, bool is_valid) {
    Term & first = terms.front();
    const uint64_t bytes = first.region.tensor_bytes;
    const bool is_in_place = terms.size() == 1 && bytes > 0 && first.region.region.buffer->is_host;
    const auto claimed = claim(group, precision, bytes, is_in_place);
    if (!claimed) {
        group.ranks.leave(claimed.error());
        return std::unexpected(claimed.error());
    }
    if (bytes == 0) {
        return exchange(group, precision, {}, is_valid);
    }
    if (is_in_place) {
        if (first.is_zero) {
            std::ranges::fill(floats_of(first.region), 0.0f);
        }
        return exchange(group, precision, floats_of(first.region), is_valid);
    }
    std::vector<float> sum(bytes / sizeof(float)), part;
    for (Term & term : terms) {
        if (term.is_zero) {
            continue;
        }
        std::span<const float> values = floats_of(term.region);
        if (!term.bytes.empty()) {
            values = {reinterpret_cast<const float *>(term.bytes.data()), sum.size()};
        } else if (!term.region.region.buffer->is_host) {
            part.resize(sum.size());
            ggml_backend_tensor_get(&term.region.tensor, part.data(), 0, bytes);
            values = part;
        }
        for (size_t i = 0; i < sum.size(); ++i) {
            sum[i] += values[i];
        }
    }
    if (auto reduced = exchange(group, precision, sum, is_valid); !reduced) {
        return reduced;
    }
    for (Term & term : terms) {
        if (term.region.region.buffer->is_host) {
            std::ranges::copy(sum, floats_of(term.region).begin());
        } else {
            ggml_backend_tensor_set(&term.region.tensor, sum.data(), 0, bytes);
        }
    }
    return {};
}

}  // namespace caravan::server
