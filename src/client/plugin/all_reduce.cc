#include "client/plugin/all_reduce.h"

#include <algorithm>

#include "base/config.h"
#include "base/log.h"
#include "client/plugin/device.h"
#include "client/session/group_use.h"
#include "client/session/reduction_check.h"
#include "tunables/client.h"

namespace caravan::client {
namespace {

struct CommContext {
    std::shared_ptr<GroupUse> use;
    std::vector<size_t> member_of;  // each back-end's place among the group's members
};

}  // namespace

void * comm_init(ggml_backend_t * backends, size_t n_backends) {
    if (n_backends < 2 || n_backends > wire::max_ranks) {
        return nullptr;
    }
    std::vector<std::shared_ptr<Connection>> members;
    std::vector<size_t> member_of;
    for (size_t i = 0; i < n_backends; ++i) {
        auto connection = connection_of(backends[i]);
        if (connection == nullptr || !connection->is_native()) {
            log_warning("{}: no direct all-reduce, copying tensors instead, which is slower ({})",
                        ggml_backend_name(backends[i]),
                        connection == nullptr ? "this is not an RPC device" : "its server is a stock one");
            return nullptr;
        }
        const auto known = std::ranges::find(members, connection);
        member_of.push_back(static_cast<size_t>(known - members.begin()));
        if (known == members.end()) {
            members.push_back(std::move(connection));
        }
    }
    auto group = ServerGroup::of(members);
    if (!group) {
        log_fallback(ServerGroup::names_of(members), group.error());
        return nullptr;
    }
    const auto use = std::make_shared<GroupUse>(std::move(*group));
    for (size_t i = 0; i < n_backends; ++i) {
        set_group_use(backends[i], use);
    }
    return new CommContext{use, std::move(member_of)};
}

void comm_free(void * context) { delete static_cast<CommContext *>(context); }

bool comm_allreduce_tensor(void * context, ggml_tensor ** tensors) {
    const CommContext & comm = *static_cast<CommContext *>(context);
    const size_t bytes = ggml_nbytes(tensors[0]);
    std::vector<std::vector<Reductions::Term>> terms(comm.use->members().size());
    for (size_t i = 0; i < comm.member_of.size(); ++i) {
        const ggml_tensor & tensor = *tensors[i];
        const BufferContext * buffer = context_of(tensor);
        const size_t member = comm.member_of[i];
        if (tensor.type != GGML_TYPE_F32 || !ggml_is_contiguous(&tensor) || ggml_nbytes(&tensor) != bytes ||
            buffer == nullptr || buffer->connection != comm.use->members()[member]) {
            return false;
        }
        terms[member].push_back({encode_region(tensor, buffer->remote.handle), range_of(tensor),
                                 (tensor.flags & GGML_TENSOR_FLAG_COMPUTE) == 0});
    }
    const bool is_rounded = prompts_are_rounded() && ggml_nrows(tensors[0]) >= tunable::prompt_rows;
    if (bytes > 0 && !comm.use->reduce(terms, is_rounded ? wire::Precision::bf16 : wire::Precision::f32)) {
        return false;
    }
    if (bytes > 0 && reductions_are_checked()) {
        check_reduction(tensors[0]->name, comm.use->members(), terms);
    }
    return true;
}

}  // namespace caravan::client
