// All-reduce over the devices of this session and the sessions of other servers: the commands GROUP and REDUCE. Used by the
// session's thread only.
#pragma once

#include <bitset>
#include <functional>
#include <optional>
#include <span>
#include <unordered_map>
#include <vector>

#include "server/graph/tensor_check.h"
#include "server/links/reduction_group.h"
#include "server/session/memory_budget.h"
#include "wire/native.h"

namespace caravan::server {

struct SessionContext;

class Reductions {
public:
    // A tensor of a reduction. `is_zero`: it was not computed, and counts as zeros. `bytes`: its content, if it was read from a
    // device's memory already.
    struct Term {
        CheckedRegion region;
        bool is_zero = false;
        ConstBytes bytes{};
    };

    // `context` must outlive this.
    explicit Reductions(SessionContext & context) : context_(context) {}

    // Forms a group over links that were not used before. Fails if there is no such link, or the request is invalid; the
    // session can continue. Frees the groups in which a reduction has failed, with their links: the client replaces them.
    Result<> form(const wire::GroupRequest & request, std::span<const wire::GroupPeer> peers);
    // For the command ALGORITHM. Errc::not_found if there is no such group.
    Result<wire::AlgorithmReply> algorithm(const wire::AlgorithmRequest & request) const;
    // Errc::invalid_argument if the layout of the tensors is wrong, Errc::not_found if there never was such a group.
    Result<> check(const wire::ReduceRequest & request, std::span<const Term> terms) const;
    // Replaces each tensor by the sum. `is_valid`: false if one could not be computed. Fails if the sum could not be computed;
    // its bytes are stale then. Precondition: check() succeeded.
    Result<> reduce(const wire::ReduceRequest & request, std::span<Term> terms, bool is_valid);
    // Why the session has to end after reduce() has failed, if it does: its wait for other ranks made it idle.
    const std::optional<Error> & session_end() const { return session_end_; }

private:
    struct Group {
        ReductionGroup ranks;
        MemoryClaim claim;  // of the memory that `ranks` keeps,
        uint64_t claimed = 0;  // bytes
        bool is_logged = false, is_observed = false, has_failed = false;
        std::vector<uint64_t> tokens{};   // of its links that others opened,
        std::vector<uint16_t> numbers{};  // and those of the others
    };
    Result<> reduce_in_memory(Group & group, wire::Precision precision, std::span<Term> terms, bool is_valid);
    void free_failed();
    void drop_links(std::span<const uint64_t> tokens, std::span<const uint16_t> numbers);
    void observe(Group & group);
    Result<> exchange(Group & group, wire::Precision precision, std::span<float> data, bool is_valid);
    Result<MemoryClaim> claim(Group & group, wire::Precision precision, uint64_t bytes, bool is_in_place);

    SessionContext & context_;
    std::unordered_map<uint16_t, Group> groups_;
    std::optional<Error> session_end_;
    std::bitset<UINT16_MAX + 1> freed_;  // by number: reductions may still be queued, and fail
};

}  // namespace caravan::server
