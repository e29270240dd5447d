// The graphs that a server stores for a session, in slots that the client chooses.
//
// A program launches the same graphs in the same order for each token, and now and then slightly different ones. So a new
// graph is sent as a difference to the one that followed its predecessor the last time, or else to the last one with the same
// ops. The least recently used slot is reused.
//
// Bookkeeping only: no I/O. All lookups take constant time. Guarded by the stream's lock.
#pragma once

#include <cstdint>
#include <list>
#include <optional>
#include <unordered_map>
#include <vector>

#include "client/encode/commands.h"

namespace caravan::client {

class GraphSlots {
public:
    struct Slot {
        uint32_t device = 0;
        bool on_server = false;  // can be launched by its slot
        std::vector<wire::GraphTensor> tensors;
        KeptGraph kept;

    private:
        friend class GraphSlots;
        uint64_t uid = 0, hash = 0;
        std::optional<uint16_t> next;  // launched after this one on its device the last time
        std::list<uint16_t>::iterator age;
    };

    explicit GraphSlots(size_t capacity = wire::max_graph_slots);

    // The graph with ggml's number `uid`, which is unique unless it is 0. Null: the server does not have it.
    Slot * find(uint32_t device, uint64_t uid);
    // A graph of other number with the same tensors. It has `uid` from now on.
    Slot * find_equal(uint32_t device, uint64_t uid, const std::vector<wire::GraphTensor> & tensors);
    // The stored graph that is probably the most similar to this one, which is launched next. Null: none.
    const Slot * base(uint32_t device, const std::vector<wire::GraphTensor> & tensors) const;
    // Stores a graph in the least recently used slot. `base`: as returned for it.
    Slot & store(uint32_t device, uint64_t uid, std::vector<wire::GraphTensor> tensors, KeptGraph kept, const Slot * base);
    // Call this for each launch, in the order of launches.
    void record_launch(Slot & slot);
    // The server may have dropped any graph. Their tensors are still bases of differences.
    void forget();

    uint16_t index_of(const Slot & slot) const { return static_cast<uint16_t>(&slot - slots_.data()); }

private:
    static uint64_t hash_of(uint32_t device, const std::vector<wire::GraphTensor> & tensors);
    static uint64_t hash_of_ops(uint32_t device, const std::vector<wire::GraphTensor> & tensors);
    static uint64_t key_of(uint32_t device, uint64_t uid);
    void set_uid(Slot & slot, uint64_t uid);
    void drop_uid(Slot & slot);
    void drop(Slot & slot);

    std::vector<Slot> slots_;
    std::list<uint16_t> by_age_;  // the least recently used one first
    std::unordered_map<uint64_t, uint16_t> by_uid_;  // by key_of()
    std::unordered_multimap<uint64_t, uint16_t> by_hash_;
    std::unordered_map<uint64_t, uint16_t> by_ops_;  // by hash_of_ops(): stored last; it may have been replaced since
    std::unordered_map<uint32_t, uint16_t> last_;  // by device: launched last
};

}  // namespace caravan::client
