#include "client/session/reductions.h"

#include <algorithm>

#include "client/session/reply_check.h"

namespace caravan::client {

Result<wire::SessionFacts> Reductions::facts() {
    const auto facts = queue_.query<wire::SessionFacts>(static_cast<wire::Command>(wire::NativeCommand::facts));
    if (!facts) {
        return std::unexpected(facts.error());
    }
    const auto lock = queue_.lock();
    queue_.decode_flag(facts->has_cache);  // only to check the reply
    if (queue_.failure()) {
        return std::unexpected(*queue_.failure());
    }
    return facts;
}

Result<bool> Reductions::supports_groups() {
    return facts().transform([](const wire::SessionFacts & facts) { return facts.groups == wire::groups_version; });
}

Result<wire::AlgorithmReply> Reductions::algorithm(uint16_t group, uint64_t bytes) {
    const auto known = facts();
    if (!known) {
        return std::unexpected(known.error());
    }
    if (known->reports_algorithm != 1) {
        return fail(Errc::unsupported, "{}: its server does not report the algorithm: update it", queue_.endpoint().text());
    }
    const auto reply = queue_.query<wire::AlgorithmReply>(static_cast<wire::Command>(wire::NativeCommand::algorithm),
                                                          wire::AlgorithmRequest{group, bytes});
    if (!reply) {
        return std::unexpected(reply.error());
    }
    if (reply->algorithm == wire::no_algorithm) {
        return fail(Errc::unsupported, "{}: no algorithm was chosen yet", queue_.endpoint().text());
    }
    if (auto sound = check_algorithm(*reply); !sound) {
        return fail(Errc::protocol, "{}: {}", queue_.endpoint().text(), sound.error().text);
    }
    return reply;
}

Result<uint16_t> Reductions::join(uint8_t rank, std::span<const wire::GroupPeer> peers, seconds patience) {
    auto lock = queue_.lock();
    queue_.begin(lock);
    if (queue_.failure()) {
        return std::unexpected(*queue_.failure());
    }
    const uint16_t group = next_group_++;
    Stream & stream = queue_.stream();
    queue_.native().post_native(wire::NativeCommand::group,
                                wire::GroupRequest{group, rank, static_cast<uint8_t>(peers.size()),
                                                   static_cast<uint16_t>(patience.count())},
                                peers.size_bytes());
    stream.append(std::as_bytes(peers));
    uint8_t is_member = 0;
    queue_.await(lock, stream.expect(mutable_bytes(&is_member, sizeof is_member), true));
    if (auto refusal = stream.take_refusal()) {
        return fail(Errc::unavailable, "{}: {}", queue_.endpoint().text(), *refusal);
    }
    const bool is_sound = queue_.decode_flag(is_member);
    if (queue_.failure()) {
        return std::unexpected(*queue_.failure());
    }
    return is_sound ? Result<uint16_t>(group) : fail(Errc::unavailable, "{}: no group", queue_.endpoint().text());
}

bool Reductions::can_reduce(std::span<const Term> terms) {
    const auto lock = queue_.lock();
    return !queue_.failure() && queue_.relays().empty() &&
           std::ranges::none_of(terms, [&](const Term & term) { return queue_.undelivered().overlaps(term.range); });
}

void Reductions::reduce(uint16_t group, wire::Precision precision, std::span<const Term> terms) {
    auto lock = queue_.lock();
    queue_.begin_read(lock);
    if (queue_.failure()) {
        return;
    }
    std::vector<wire::Region> regions;
    uint16_t zero = 0;
    for (const Term & term : terms) {
        queue_.send_held(term.range);
        zero = static_cast<uint16_t>(zero | (term.is_zero ? 1 << regions.size() : 0));
        regions.push_back(term.region);
    }
    queue_.native().reduce({group, zero, precision}, regions);
    queue_.stream().count_launch();  // the server reports a failed REDUCE as a failed launch
    queue_.prediction().record_reduction();
}

std::chrono::nanoseconds Reductions::advance() {
    const auto lock = queue_.lock();
    return queue_.stream().advance();
}

}  // namespace caravan::client
