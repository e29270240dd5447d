#include "client/encode/graph_slots.h"

#include <cstring>
#include <string_view>
#include <utility>

namespace caravan::client {

GraphSlots::GraphSlots(size_t capacity) : slots_(capacity) {
    for (size_t i = 0; i < capacity; ++i) {
        slots_[i].age = by_age_.insert(by_age_.end(), static_cast<uint16_t>(i));
    }
}

uint64_t GraphSlots::hash_of(uint32_t device, const std::vector<wire::GraphTensor> & tensors) {
    const std::string_view bytes(reinterpret_cast<const char *>(tensors.data()), tensors.size() * sizeof tensors[0]);
    return std::hash<std::string_view>()(bytes) ^ device;
}

uint64_t GraphSlots::hash_of_ops(uint32_t device, const std::vector<wire::GraphTensor> & tensors) {
    uint64_t hash = device;
    for (const wire::GraphTensor & tensor : tensors) {
        hash = (hash ^ tensor.op << 8 ^ tensor.type) * 0xff51afd7ed558ccd;
        hash ^= hash >> 32;
    }
    return hash;
}

uint64_t GraphSlots::key_of(uint32_t device, uint64_t uid) { return uid * 0x9e3779b97f4a7c15 ^ device; }

GraphSlots::Slot * GraphSlots::find(uint32_t device, uint64_t uid) {
    const auto known = uid == 0 ? by_uid_.end() : by_uid_.find(key_of(device, uid));
    if (known == by_uid_.end()) {
        return nullptr;
    }
    Slot & slot = slots_[known->second];
    return slot.on_server && slot.uid == uid && slot.device == device ? &slot : nullptr;
}

GraphSlots::Slot * GraphSlots::find_equal(uint32_t device, uint64_t uid, const std::vector<wire::GraphTensor> & tensors) {
    const auto [begin, end] = by_hash_.equal_range(hash_of(device, tensors));
    for (auto known = begin; known != end; ++known) {
        Slot & slot = slots_[known->second];
        if (slot.on_server && slot.device == device && slot.tensors.size() == tensors.size() &&
            std::memcmp(slot.tensors.data(), tensors.data(), tensors.size() * sizeof tensors[0]) == 0) {
            set_uid(slot, uid);
            return &slot;
        }
    }
    return nullptr;
}

const GraphSlots::Slot * GraphSlots::base(uint32_t device, const std::vector<wire::GraphTensor> & tensors) const {
    const auto last = last_.find(device);
    if (last == last_.end()) {
        return nullptr;
    }
    const auto is_usable = [&](uint16_t index) { return slots_[index].device == device && !slots_[index].tensors.empty(); };
    const Slot & before = slots_[last->second];
    if (before.next && is_usable(*before.next)) {
        return &slots_[*before.next];
    }
    const auto alike = by_ops_.find(hash_of_ops(device, tensors));
    return alike != by_ops_.end() && is_usable(alike->second) ? &slots_[alike->second] : &before;
}

void GraphSlots::set_uid(Slot & slot, uint64_t uid) {
    drop_uid(slot);
    slot.uid = uid;
    if (uid != 0) {
        by_uid_[key_of(slot.device, uid)] = index_of(slot);
    }
}

void GraphSlots::drop_uid(Slot & slot) {
    const auto named = slot.uid == 0 ? by_uid_.end() : by_uid_.find(key_of(slot.device, slot.uid));
    if (named != by_uid_.end() && named->second == index_of(slot)) {
        by_uid_.erase(named);
    }
    slot.uid = 0;
}

void GraphSlots::drop(Slot & slot) {
    const auto [begin, end] = by_hash_.equal_range(slot.hash);
    for (auto known = begin; known != end; ++known) {
        if (known->second == index_of(slot)) {
            by_hash_.erase(known);
            break;
        }
    }
    drop_uid(slot);
}

GraphSlots::Slot & GraphSlots::store(uint32_t device, uint64_t uid, std::vector<wire::GraphTensor> tensors, KeptGraph kept,
                                     const Slot * base) {
    const auto next = base == nullptr ? std::nullopt : base->next;
    Slot & slot = slots_[by_age_.front()];
    if (!slot.tensors.empty()) {
        drop(slot);
    }
    slot.device = device;
    slot.on_server = true;
    slot.hash = hash_of(device, tensors);
    slot.tensors = std::move(tensors);
    slot.kept = std::move(kept);
    slot.next = next;  // its follower probably resembles that one's
    by_hash_.emplace(slot.hash, index_of(slot));
    if (by_ops_.size() > 2 * slots_.size()) {
        by_ops_.clear();
    }
    by_ops_[hash_of_ops(device, slot.tensors)] = index_of(slot);
    set_uid(slot, uid);
    return slot;
}

void GraphSlots::record_launch(Slot & slot) {
    by_age_.splice(by_age_.end(), by_age_, slot.age);
    const auto [last, is_first] = last_.try_emplace(slot.device, index_of(slot));
    if (!is_first) {
        slots_[last->second].next = index_of(slot);
        last->second = index_of(slot);
    }
}

void GraphSlots::forget() {
    for (Slot & slot : slots_) {
        slot.on_server = false;
    }
}

}  // namespace caravan::client
