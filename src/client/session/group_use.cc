#include "client/session/group_use.h"

#include "base/log.h"

namespace caravan::client {

bool GroupUse::is_undisturbed() {
    const uint64_t failures = group_->failures();
    if (seen_failures_ == failures) {
        return true;
    }
    seen_failures_ = failures;
    log_error("RPC servers {}: graph not computed: another context's computation on them has failed", group_->names());
    return false;
}

bool GroupUse::begin_launch() {
    if (!is_undisturbed()) {
        return false;
    }
    group_->renew();
    return true;
}

void GroupUse::fail() { seen_failures_ = group_->record_failure(seen_failures_); }

bool GroupUse::reduce(const std::vector<std::vector<Reductions::Term>> & terms, wire::Precision precision) {
    const bool is_queued = group_->reduce(terms, precision);
    has_reduced_ = has_reduced_ || is_queued;
    return is_queued;
}

ggml_status GroupUse::confirm(Connection & launched) {
    const ggml_status status = await_results(launched);
    if (status != GGML_STATUS_SUCCESS) {
        fail();
        return status;
    }
    return is_undisturbed() ? GGML_STATUS_SUCCESS : GGML_STATUS_FAILED;
}

ggml_status GroupUse::await_results(Connection & launched) {
    if (!has_reduced_) {  // not a computation of the group, but of one server
        return launched.await_result();
    }
    if (&launched != members().back().get()) {
        return GGML_STATUS_SUCCESS;
    }
    has_reduced_ = false;
    ggml_status status = GGML_STATUS_SUCCESS;
    for (const auto & member : members()) {
        if (const ggml_status own = member->await_result(); own != GGML_STATUS_SUCCESS) {
            status = own;
        }
    }
    return status;
}

}  // namespace caravan::client
