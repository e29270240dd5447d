#include "net/rdma/proof.h"

#include <algorithm>
#include <optional>
#include <thread>
#include <utility>

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

Result<> write_nothing(QueuePair & pair) {
    ibv_send_wr request{};
    request.wr_id = set_up_send_id;
    request.opcode = IBV_WR_RDMA_WRITE;
    request.send_flags = IBV_SEND_SIGNALED;
    return post(pair, request);
}

// Posts a message of a whole slot: the token and a pattern.
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

// The steps of one queue pair.
class Proof {
public:
    Proof(QueuePair & pair, Prover prover) : pair_(pair), prover_(prover) {
        if (prover == Prover::client) {
            begin_write();
        }
    }

    // The result, once there is one. Does not block.
    const std::optional<Result<>> & advance() {
        ibv_wc completion{};
        while (!result_ && pair_.poll(completion) > 0) {
            if (completion.status != IBV_WC_SUCCESS) {
                result_ = failed(completion);
            } else if (completion.wr_id != set_up_send_id) {
                receive(completion);
            } else if (writes_) {
                writes_ = false;
                finish_step(send_token(pair_), prover_ == Prover::server);
            }  // else the own token's completion, before or after the peer's token
        }
        return result_;
    }

private:
    void begin_write() {
        writes_ = true;
        finish_step(write_nothing(pair_), false);
    }

    void receive(const ibv_wc & completion) {
        const auto slot = static_cast<uint32_t>(completion.wr_id);
        const ConstBytes message = pair_.receive_slot(slot);
        if (writes_) {  // a correct peer waits for this end's token
            result_ = fail(Errc::protocol, Reason::no_rdma_path, "unexpected message over RDMA");
        } else if (completion.byte_len != pair_.send_slot_size() || !is_token(message.first(completion.byte_len))) {
            result_ = fail(Errc::protocol, Reason::no_rdma_path, "the first message over RDMA is not the token");
        } else {
            finish_step(pair_.post_receive(slot), prover_ == Prover::client);
            if (!result_) {
                begin_write();
            }
        }
    }

    void finish_step(Result<> step, bool is_last) {
        if (!step || is_last) {
            result_ = std::move(step);
        }
    }

    QueuePair & pair_;
    const Prover prover_;
    bool writes_ = false;  // awaits the acknowledgement of its write
    std::optional<Result<>> result_;
};

}  // namespace

std::vector<Result<>> prove(std::span<const std::unique_ptr<QueuePair>> pairs, Prover prover, TimePoint deadline,
                            const HasGivenUp & has_given_up) {
    std::vector<std::optional<Proof>> proofs(pairs.size());
    for (size_t i = 0; i < pairs.size(); ++i) {
        if (pairs[i] != nullptr) {
            proofs[i].emplace(*pairs[i], prover);
        }
    }
    std::vector<Result<>> results(pairs.size(), fail(Errc::timed_out, Reason::no_rdma_path,
                                                     "no message gets through over RDMA"));
    // After a while it sleeps between the polls: where the network loses RDMA's packets, it waits for long, and both sides may
    // compute meanwhile.
    const TimePoint sleep_after = Clock::now() + tunable::rdma_proof_spin;
    bool has_success = false;
    for (TimePoint ask_at{};;) {
        bool are_done = true;
        for (size_t i = 0; i < proofs.size(); ++i) {
            const auto result = proofs[i] ? proofs[i]->advance() : std::nullopt;
            are_done &= result || !proofs[i];
            if (result) {
                results[i] = *result;
                proofs[i].reset();
                if (*result && !std::exchange(has_success, true) && prover == Prover::client) {
                    deadline = std::min(deadline, Clock::now() + tunable::rdma_rail_patience);
                }
            }
        }
        const TimePoint now = Clock::now();
        if (are_done || now >= deadline) {
            return results;
        }
        if (has_given_up && now >= ask_at) {
            if (has_given_up()) {
                for (size_t i = 0; i < proofs.size(); ++i) {
                    if (proofs[i]) {
                        results[i] = fail(Errc::unavailable, Reason::no_rdma_path,
                                          "the peer gave up before a message got through over RDMA");
                    }
                }
                return results;
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

}  // namespace caravan::net::rdma
