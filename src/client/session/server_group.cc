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
    std::mutex forming;  // held while a group is formed
    std::mutex mutex;    // guards `all`
    std::vector<std::weak_ptr<ServerGroup>> all;

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
};

std::string names_of(const std::vector<std::shared_ptr<Connection>> & members) {
    std::string out;
    for (const auto & member : members) {
        out += (out.empty() ? "" : ", ") + member->endpoint().text();
    }
    return out;
}

}  // namespace

std::shared_ptr<ServerGroup> ServerGroup::of(const std::vector<std::shared_ptr<Connection>> & members) {
    Groups & groups = Groups::instance();
    const std::lock_guard lock(groups.forming);
    for (const auto & known : groups.living()) {
        if (known->members_ == members) {
            return known;
        }
    }
    std::shared_ptr<ServerGroup> group(new ServerGroup(members));
    if (auto formed = group->form(); !formed) {
        log_warning("RPC servers {}: no direct all-reduce, copying tensors instead, which is slower ({})",
                    names_of(members), formed.error().text);
        return nullptr;
    }
    std::string ranks;
    for (size_t i = 0; i < members.size(); ++i) {
        ranks += formatted("{}rank {}: {}", i == 0 ? "(" : ", ", i, members[i]->endpoint().text());
    }
    for (const auto & member : members) {
        member->join(group, ranks + ")");
    }
    const std::lock_guard in_list(groups.mutex);
    groups.all.push_back(group);
    return group;
}

Result<> ServerGroup::form() {
    for (const auto & member : members_) {
        const auto has_groups = member->reductions().has_groups();
        if (!has_groups) {
            return std::unexpected(has_groups.error());
        }
        if (!*has_groups) {
            return fail(Errc::unsupported, "{} is too old: update it", member->endpoint().text());
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
    for (size_t i = 0; i < members_.size(); ++i) {
        const auto number = members_[i]->reductions().join(static_cast<uint8_t>(i), peers[i], patience);
        if (!number) {
            return std::unexpected(number.error());
        }
        numbers_.push_back(*number);
    }
    std::string over;
    for (const std::string_view kind : kinds) {
        over += formatted("{}{}", over.empty() ? " over " : " and ", kind);
    }
    log_info("RPC server{} {}: direct all-reduce{}", members_.size() == 1 ? "" : "s", names_of(members_), over);
    return {};
}

bool ServerGroup::reduce(const std::vector<std::vector<Reductions::Term>> & terms) {
    {
        const auto order = lock_order();
        for (size_t i = 0; i < members_.size(); ++i) {
            if (!members_[i]->reductions().can_reduce(terms[i])) {
                return false;
            }
        }
        for (size_t i = 0; i < members_.size(); ++i) {
            members_[i]->reductions().reduce(numbers_[i], terms[i]);
        }
    }
    // The servers begin at once, and the number of sends grows with the logarithm of the number of sums.
    if (std::has_single_bit(++queued_)) {
        advance();
    }
    return true;
}

std::chrono::nanoseconds ServerGroup::advance() {
    auto again_after = tunable::never;
    for (const auto & member : members_) {
        again_after = std::min(again_after, member->reductions().advance());
    }
    return again_after;
}

std::chrono::nanoseconds ServerGroup::advance_before_wait() {
    queued_ = 0;
    return advance();
}

ggml_status ServerGroup::confirm(Connection & launched) {
    if (queued_ == 0) {  // not a computation of the group, but of one server
        return launched.await_result();
    }
    if (&launched != members_.back().get()) {
        return GGML_STATUS_SUCCESS;
    }
    ggml_status status = GGML_STATUS_SUCCESS;
    for (const auto & member : members_) {
        if (const ggml_status own = member->await_result(); own != GGML_STATUS_SUCCESS) {
            status = own;
        }
    }
    return status;
}

}  // namespace caravan::client
