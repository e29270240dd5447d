#include "net/rdma/proof.h"

#include <optional>
#include <thread>

#include "tunables/rdma.h"

namespace caravan::net::rdma {
namespace {

// A changed format of messages gets another token, so that peers with different formats stay on TCP.
constexpr uint64_t token = 0x334e454b4f544d44;

std::byte pattern(size_t position) { return static_cast<std::byte>(position * 31 >> 3); }

std::unexpected<Error> failed(const ibv_wc & completion) {
    return fail(Errc::unavailable, Reason::no_rdma_path, "no message gets through over RDMA: {}",
                verbs().wc_status_str(completion.status));
}

Result<> post(QueuePair & pair, ibv_send_wr & request) {
    ibv_send_wr * bad = nullptr;
    if (const int error = ibv_post_send(pair.qp(), &request, &bad); error != 0) {
        return fail(Errc::io, "posting a send failed: {}", errno_text(error));
    }
    return {};
}

// Calls `poll` until it returns a result. After a while it sleeps between the calls: where the network loses RDMA's packets, it
// waits for long, and both sides may compute meanwhile.
template <class Poll>
Result<> await(TimePoint deadline, const HasGivenUp & has_given_up, const Poll & poll) {
    const TimePoint sleep_after = Clock::now() + tunable::rdma_proof_spin;
    for (TimePoint ask_at{};;) {
        if (auto result = poll()) {
            return std::move(*result);
        }
        const TimePoint now = Clock::now();
        if (now >= deadline) {
            return fail(Errc::timed_out, Reason::no_rdma_path, "no message gets through over RDMA");
        }
        if (has_given_up && now >= ask_at) {
            if (has_given_up()) {
                return fail(Errc::unavailable, Reason::no_rdma_path, "the peer gave up before a message got through over RDMA");
            }
            ask_at = now + milliseconds(1);
        }
        if (now < sleep_after) {
            std::this_thread::yield();
        } else {
            std::this_thread::sleep_for(tunable::rdma_proof_pause);
        }
    }
}

bool is_token(ConstBytes message) {
    if (load<uint64_t>(message.data()) != token) {
        return false;
    }
    for (size_t i = sizeof token; i < message.size(); ++i) {
        if (message[i] != pattern(i)) {
            return false;
        }
    }
    return true;
}

}  // namespace

Result<> prove_write(QueuePair & pair, TimePoint deadline, const HasGivenUp & has_given_up) {
    ibv_send_wr request{};
    request.wr_id = set_up_send_id;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = IBV_SEND_SIGNALED;
    if (auto posted = post(pair, request); !posted) {
        return posted;
    }
    return await(deadline, has_given_up, [&]() -> std::optional<Result<>> {
        ibv_wc completion{};
        if (pair.poll(completion) <= 0) {
            return std::nullopt;
        }
        if (completion.status != IBV_WC_SUCCESS) {
            return failed(completion);
        }
        // A correct peer sends nothing now: it waits for this end's token.
        return completion.wr_id == set_up_send_id
                   ? Result<>()
                   : fail(Errc::protocol, Reason::no_rdma_path, "unexpected message over RDMA");
    });
}

Result<> send_token(QueuePair & pair) {
    const MutableBytes slot = pair.send_slot(0).first(pair.send_slot_size());
    store(slot.data(), token);
    for (size_t i = sizeof token; i < slot.size(); ++i) {
        slot[i] = pattern(i);
    }
    ibv_sge sge{reinterpret_cast<uint64_t>(slot.data()), static_cast<uint32_t>(slot.size()), pair.lkey()};
    ibv_send_wr request{};
    request.wr_id = set_up_send_id;
    request.sg_list = &sge;
    request.num_sge = 1;
    request.opcode = IBV_WR_SEND;
    request.send_flags = IBV_SEND_SIGNALED;
    return post(pair, request);
}

Result<> receive_token(QueuePair & pair, TimePoint deadline, const HasGivenUp & has_given_up) {
    return await(deadline, has_given_up, [&]() -> std::optional<Result<>> {
        ibv_wc completion{};
        if (pair.poll(completion) <= 0) {
            return std::nullopt;
        }
        if (completion.status != IBV_WC_SUCCESS) {
            return failed(completion);
        }
        if (completion.wr_id == set_up_send_id) {  // the own token's completion may come before or after
            return std::nullopt;
        }
        const auto slot = static_cast<uint32_t>(completion.wr_id);
        const ConstBytes message = pair.receive_slot(slot);
        if (completion.byte_len != pair.send_slot_size() || !is_token(message.first(completion.byte_len))) {
            return fail(Errc::protocol, Reason::no_rdma_path, "the first message over RDMA is not the token");
        }
        return pair.post_receive(slot);
    });
}

}  // namespace caravan::net::rdma
