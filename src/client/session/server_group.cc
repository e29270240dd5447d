#include "client/session/server_group.h"

#include <algorithm>
#include <bit>
#include <mutex>
#include <set>

#include "base/log.h"
#include "client/session/order_lock.h"
#include "tunables/client.h"

namespace caravan::client {
namespace {

// All groups of the process. Never destroyed: threads may use it until the process exits.
struct Groups {
    // What a group that is no longer used has made on the servers.
    struct Unused {
        std::vector<std::weak_ptr<Connection>> members;
        std::vector<uint16_t> numbers;
    };
    std::mutex forming;  // held while a group is formed
    std::mutex mutex;    // guards `all` and `unused`
    std::vector<std::weak_ptr<ServerGroup>> all;
    std::vector<Unused> unused;

    static Groups & instance() {
        static Groups & only = *new Groups();
        return only;
    }
    std::vector<std::shared_ptr<ServerGroup>> living() {
        const std::lock_guard lock(mutex);
        std::vector<std::shared_ptr<ServerGroup>> out;
        std::erase_if(all, [&](const auto & weak) {
            auto group = weak.lock();
            if (group != nullptr) {
                out.push_back(std::move(group));
            }
            return weak.expired();
        });
        return out;
    }
    // Empty if there is none of these sessions.
    std::vector<uint16_t> take_unused(const std::vector<std::shared_ptr<Connection>> & members) {
        const std::lock_guard lock(mutex);
        std::erase_if(unused, [](const Unused & one) {
            return std::ranges::any_of(one.members, [](const auto & weak) { return weak.expired(); });
        });
        const auto found = std::ranges::find_if(unused, [&](const Unused & one) {
            return std::ranges::equal(one.members, members,
                                      [](const auto & weak, const auto & member) { return weak.lock() == member; });
        });
        if (found == unused.end()) {
            return {};
        }
        auto numbers = std::move(found->numbers);
        unused.erase(found);
        return numbers;
    }
};

}  // namespace

Result<std::shared_ptr<ServerGroup>> ServerGroup::of(const std::vector<std::shared_ptr<Connection>> & members) {
    Groups & groups = Groups::instance();
    const std::lock_guard lock(groups.forming);
    for (const auto & known : groups.living()) {
        if (known->members_ == members && !known->is_given_up_) {
            return known;
        }
    }
    std::shared_ptr<ServerGroup> group(new ServerGroup(members));
    group->numbers_ = groups.take_unused(members);
    if (group->numbers_.empty()) {
        if (auto formed = group->form_and_join(); !formed) {
            return std::unexpected(formed.error());
        }
    }
    const std::lock_guard in_list(groups.mutex);
    groups.all.push_back(group);
    return group;
}

ServerGroup::~ServerGroup() {
    if (!numbers_.empty() && failures_ == renewed_) {
        Groups & groups = Groups::instance();
        const std::lock_guard lock(groups.mutex);
        groups.unused.push_back({{members_.begin(), members_.end()}, std::move(numbers_)});
    }
}

void log_fallback(std::string_view servers, const Error & error) {
    log_warning("RPC servers {}: no direct all-reduce, copying tensors instead, which is slower ({})", servers, error.text);
}

std::string ServerGroup::names_of(const std::vector<std::shared_ptr<Connection>> & members) {
    std::string out;
    for (const auto & member : members) {
        out += (out.empty() ? "" : ", ") + member->endpoint().text();
    }
    return out;
}

uint64_t ServerGroup::record_failure(uint64_t seen) {
    // A failure that another context has counted too is counted once.
    return failures_.compare_exchange_strong(seen, seen + 1) ? seen + 1 : seen;
}

void ServerGroup::renew() {
    if (renewed_ == failures_) {
        return;
    }
    const std::lock_guard lock(Groups::instance().forming);
    const uint64_t failures = failures_;
    if (renewed_ == failures || std::ranges::any_of(members_, [](const auto & member) { return member->failed(); })) {
        return;
    }
    for (const auto & member : members_) {
        member->forget_launch_failures();
    }
    if (!is_given_up_) {
        const auto formed = form_and_join();
        is_given_up_ = !formed;
        if (!formed) {
            log_fallback(names(), formed.error());
        }
    }
    renewed_ = failures;
}

// If it cannot be formed it has no numbers.
Result<> ServerGroup::form_and_join() {
    const auto formed = form();
    {
        const auto order = lock_order();
        numbers_ = formed.value_or(Numbers());
    }
    if (!formed) {
        return std::unexpected(formed.error());
    }
    std::string ranks;
    for (size_t i = 0; i < members_.size(); ++i) {
        ranks += formatted("{}rank {}: {}", i == 0 ? "(" : ", ", i, members_[i]->endpoint().text());
    }
    for (const auto & member : members_) {
        member->join(ranks + ")");
    }
    return {};
}

Result<ServerGroup::Numbers> ServerGroup::form() {
    for (const auto & member : members_) {
        const auto supports = member->reductions().supports_groups();
        if (!supports) {
            return std::unexpected(supports.error());
        }
        if (!*supports) {
            return fail(Errc::unsupported, "{} has another version of it: update the older of server and plug-in",
                        member->endpoint().text());
        }
    }
    // Shorter than the client's own, because a server knows for whom it waits.
    const seconds patience = std::clamp(members_.front()->reply_timeout() * 3 / 4, seconds(1), tunable::max_group_patience);
    // Of each pair, the later one has the token and the earlier one opened the link.
    std::vector<std::vector<wire::GroupPeer>> peers(members_.size(), std::vector<wire::GroupPeer>(members_.size()));
    std::set<std::string_view> kinds;
    for (size_t later = 0; later < members_.size(); ++later) {
        for (size_t earlier = 0; earlier < later; ++earlier) {
            const auto link = members_[later]->transfers().open_link(*members_[earlier]);
            if (!link) {
                return std::unexpected(link.error());
            }
            peers[later][earlier].token = link->token;
            peers[earlier][later].link = link->number;
            kinds.insert(text_of(link->kind));
        }
    }
    Numbers numbers;
    for (size_t i = 0; i < members_.size(); ++i) {
        const auto number = members_[i]->reductions().join(static_cast<uint8_t>(i), peers[i], patience);
        if (!number) {
            return std::unexpected(number.error());
        }
        numbers.push_back(*number);
    }
    transports_.clear();
    for (const std::string_view kind : kinds) {
        transports_ += formatted("{}{}", transports_.empty() ? "" : " and ", kind);
    }
    log_info("RPC server{} {}: direct all-reduce{}{}", members_.size() == 1 ? "" : "s", names(),
             transports_.empty() ? "" : " over ", transports_);
    return numbers;
}

bool ServerGroup::reduce(const std::vector<std::vector<Reductions::Term>> & terms, wire::Precision precision) {
    {
        const auto order = lock_order();
        if (numbers_.empty()) {
            return false;
        }
        for (size_t i = 0; i < members_.size(); ++i) {
            if (!members_[i]->reductions().can_reduce(terms[i])) {
                return false;
            }
        }
        for (size_t i = 0; i < members_.size(); ++i) {
            members_[i]->reductions().reduce(numbers_[i], precision, terms[i]);
        }
    }
    // The servers begin at once, and the number of sends grows with the logarithm of the number of sums.
    if (std::has_single_bit(++queued_)) {
        advance();
    }
    return true;
}

Result<ServerGroup::Exchange> ServerGroup::exchange(uint64_t bytes) {
    Numbers numbers;
    {
        const auto order = lock_order();
        numbers = numbers_;
    }
    if (numbers.empty()) {
        return fail(Errc::unavailable, "there is no group");
    }
    Exchange out;
    size_t sharing = 0;
    for (size_t i = 0; i < members_.size(); ++i) {
        const auto reply = members_[i]->reductions().algorithm(numbers[i], bytes);
        if (!reply) {
            return std::unexpected(reply.error());
        }
        out.algorithm = static_cast<wire::Algorithm>(reply->algorithm);  // the same on all
        sharing += reply->sharing;
    }
    out.sharing_pairs = sharing / 2;
    return out;
}

std::chrono::nanoseconds ServerGroup::advance() {
    auto again_after = tunable::never;
    for (const auto & member : members_) {
        again_after = std::min(again_after, member->reductions().advance());
    }
    return again_after;
}

std::chrono::nanoseconds ServerGroup::advance_before_wait() {
    auto again_after = tunable::never;
    for (const auto & group : Groups::instance().living()) {
        group->queued_ = 0;
        again_after = std::min(again_after, group->advance());
    }
    return again_after;
}

}  // namespace caravan::client
