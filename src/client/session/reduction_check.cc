#include "client/session/reduction_check.h"

#include <algorithm>
#include <bit>

#include "base/formatted.h"

namespace caravan::client {

std::optional<std::string> difference_of(std::string_view tensor, std::span<const HeldSum> sums) {
    const auto same_bits = [](float a, float b) { return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b); };
    const HeldSum & first = sums.front();
    for (const HeldSum & other : sums.subspan(1)) {
        const auto [ours, theirs] = std::ranges::mismatch(first.values, other.values, same_bits);
        if (theirs != other.values.end()) {
            return formatted(
                "the sum {} differs (GGML_RPC_CHECK_REDUCE): element {} of {} is {} on rank {} ({}) and {} on rank {} ({})",
                tensor, theirs - other.values.begin(), other.values.size(), *ours, first.rank, first.server, *theirs,
                other.rank, other.server);
        }
    }
    return std::nullopt;
}

void check_reduction(std::string_view tensor, const std::vector<std::shared_ptr<Connection>> & members,
                     const std::vector<std::vector<Reductions::Term>> & terms) {
    std::vector<HeldSum> sums;
    for (size_t rank = 0; rank < members.size(); ++rank) {
        for (const Reductions::Term & term : terms[rank]) {
            sums.push_back({rank, members[rank]->endpoint().text(),
                            std::vector<float>((term.range.end - term.range.begin) / sizeof(float))});
            const MutableBytes bytes = mutable_bytes(sums.back().values.data(), term.range.end - term.range.begin);
            members[rank]->await(members[rank]->data().get(term.region, term.range, 0, bytes));
        }
    }
    if (std::ranges::any_of(members, [](const auto & member) { return member->has_failed_launch(); })) {
        return;
    }
    if (const auto difference = difference_of(tensor, sums)) {
        for (const auto & member : members) {
            member->fail_next_launch(*difference);
        }
    }
}

}  // namespace caravan::client
