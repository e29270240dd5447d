#include "server/links/memory_sharing.h"

#include <blake3.h>

#include <algorithm>
#include <cstring>
#include <list>
#include <memory>
#include <optional>

#include "base/log.h"
#include "base/random.h"
#include "platform/shared_memory.h"

namespace caravan::server {
namespace {

using Secret = std::byte[wire::secret_size];

void fill_random(Secret & out) {
    const uint64_t words[] = {random_token(), random_token()};
    static_assert(sizeof words == sizeof out);
    std::memcpy(out, words, sizeof out);
}

bool equal(const Secret & left, const Secret & right) { return std::ranges::equal(left, right); }

// The mark of this machine for that salt. Random, and so unlike every other one, where the machine cannot be recognized.
void set_mark(wire::MachineMark & mark) {
    const std::string & id = platform::boot_id();
    if (id.empty()) {
        fill_random(mark.mark);
        return;
    }
    blake3_hasher hasher;
    blake3_hasher_init_derive_key(&hasher, "caravan 2026 machine of a link");
    blake3_hasher_update(&hasher, mark.salt, sizeof mark.salt);
    blake3_hasher_update(&hasher, id.data(), id.size());
    blake3_hasher_finalize(&hasher, reinterpret_cast<uint8_t *>(mark.mark), sizeof mark.mark);
}

// Of one link.
struct Agreement {
    Peer * peer;
    bool opened;
    wire::MachineMark own{}, theirs{};
    MemorySource::Made made{};  // by this rank; `place` received otherwise
    wire::MemoryAnswer answer{};
    wire::MemoryVerdict verdict{};
    std::optional<platform::SharedMapping> mapping{};
    std::string why_not{};  // "" if memory is shared, or the other rank knows the reason

    MutableBytes memory() const { return mapping->bytes(); }
    bool holds(size_t at, const Secret & secret) const {
        Secret found;
        std::memcpy(found, memory().data() + at, sizeof found);
        return equal(found, secret);
    }

    bool is_same_machine() const {
        wire::MachineMark here = theirs;
        set_mark(here);
        return equal(here.mark, theirs.mark);
    }

    Result<> map(const UniqueFd & memory) {
        auto mapped = platform::check_shared_memory(memory.get(), wire::shared_memory_size).and_then([&] {
            return platform::SharedMapping::map(memory.get(), wire::shared_memory_size);
        });
        if (!mapped) {
            return std::unexpected(mapped.error());
        }
        mapping.emplace(std::move(*mapped));
        if (!holds(wire::at_secret, made.place.secret)) {
            mapping.reset();
            return fail(Errc::invalid_argument, "the memory has another secret");
        }
        return {};
    }

    void make(MemorySource & source) {
        auto made_here = source.make();
        if (!made_here) {
            why_not = made_here.error().text;
            return;
        }
        made = std::move(*made_here);
        if (auto mapped = map(made.memory); !mapped) {
            why_not = mapped.error().text;
        }
        made.memory.reset();
        made.place.is_made = mapping ? 1 : 0;
    }
    void open(MemorySource & source) {
        if (made.place.is_made != 1) {
            return;
        }
        const auto memory = source.open(made.place);
        if (auto mapped = memory ? map(*memory) : std::unexpected(memory.error()); !mapped) {
            why_not = mapped.error().text;
            return;
        }
        fill_random(answer.proof);
        std::memcpy(memory_at(wire::at_proof), answer.proof, sizeof answer.proof);
        answer.is_mapped = 1;
    }
    void judge(MemorySource & source) {
        if (made.place.is_made == 1) {
            source.release(made.place);
        }
        verdict.is_shared = mapping && answer.is_mapped == 1 && holds(wire::at_proof, answer.proof) ? 1 : 0;
        if (mapping && answer.is_mapped == 1 && verdict.is_shared == 0) {
            why_not = "the memory that the rank opened is another one";
        }
    }
    std::byte * memory_at(size_t at) const { return memory().data() + at; }

    void conclude() {
        if (verdict.is_shared == 1 && mapping) {
            peer->shared = std::make_unique<SharedLink>(std::move(*mapping), opened, *peer->link);
            peer->link = &peer->shared->link;
            log_info("rank {} of the group is on this machine: reductions use shared memory", peer->rank);
        } else if (!why_not.empty()) {
            log_info("rank {} of the group is on this machine, but memory cannot be shared with it: {}", peer->rank, why_not);
        }
    }
};

template <class Message>
Transfer transfer(Peer & peer, const Message & message, bool sends, Message & to, bool receives) {
    Transfer out{.peer = &peer};
    if (sends) {
        out.data = const_bytes(&message, sizeof message);
    }
    if (receives) {
        out.size = sizeof to;
        out.target = mutable_bytes(&to, sizeof to).data();
    }
    return out;
}

}  // namespace

Result<> share_memory(std::span<Peer> peers, std::span<const SharingRank> ranks, MemorySource & source, Exchange & exchange,
                      const std::atomic<bool> & is_cancelled) {
    std::list<Agreement> all;
    for (const SharingRank & rank : ranks) {
        const auto peer = std::ranges::find(peers, rank.rank, &Peer::rank);
        Agreement & one = all.emplace_back(Agreement{.peer = &*peer, .opened = rank.opened});
        fill_random(one.own.salt);
        set_mark(one.own);
    }
    // Each rank takes the same steps with all others, and each message of a step depends on those of the steps before only. So
    // every step ends.
    const auto step = [&](auto make_transfer) {
        std::vector<Transfer> transfers;
        for (Agreement & one : all) {
            transfers.push_back(make_transfer(one));
        }
        return exchange.run(transfers, true, 0, false, {}, is_cancelled);
    };
    auto done = step([](Agreement & one) { return transfer(*one.peer, one.own, true, one.theirs, true); });
    if (!done) {
        return done;
    }
    std::erase_if(all, [](const Agreement & one) { return !one.is_same_machine(); });
    for (Agreement & one : all) {
        if (one.opened) {
            one.make(source);
        }
    }
    done = step([](Agreement & one) { return transfer(*one.peer, one.made.place, one.opened, one.made.place, !one.opened); });
    if (!done) {
        return done;
    }
    for (Agreement & one : all) {
        if (!one.opened) {
            one.open(source);
        }
    }
    done = step([](Agreement & one) { return transfer(*one.peer, one.answer, !one.opened, one.answer, one.opened); });
    for (Agreement & one : all) {
        if (one.opened) {
            one.judge(source);
        }
    }
    if (!done) {
        return done;
    }
    done = step([](Agreement & one) { return transfer(*one.peer, one.verdict, one.opened, one.verdict, !one.opened); });
    if (!done) {
        return done;
    }
    std::ranges::for_each(all, &Agreement::conclude);
    return {};
}

}  // namespace caravan::server
