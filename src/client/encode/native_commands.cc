// The native dialect. The client assigns regions and graphs to slots; the server's slots follow.

#include <algorithm>
#include <array>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "client/encode/commands.h"
#include "client/encode/graph_slots.h"

namespace caravan::client {
namespace {

using wire::NativeCommand;

struct RegionHash {
    size_t operator()(const wire::Region & region) const {
        uint64_t hash = region.address * 0x9e3779b97f4a7c15 + region.type;
        for (int i = 0; i < wire::max_dims; ++i) {
            hash = (hash ^ region.ne[i]) * 0xff51afd7ed558ccd;
            hash = (hash ^ (hash >> 32) ^ region.nb[i]) * 0xc4ceb9fe1a85ec53;
        }
        return hash ^ (hash >> 29);
    }
};

class Native final : public NativeCommands {
public:
    explicit Native(Stream & stream) : NativeCommands(stream) {}

    void initialize(const wire::Region & region) override {
        const uint16_t slot = slot_of(region);
        post_native(NativeCommand::initialize, wire::SlotRequest{slot});
    }
    void fill(const wire::Region & region, uint64_t offset, uint64_t size, uint8_t value) override {
        const uint16_t slot = slot_of(region);
        post_native(NativeCommand::fill, wire::FillRequest{slot, offset, size, value});
    }
    void write(const wire::Region & region, uint64_t offset, uint64_t size, bool keep) override {
        const uint16_t slot = slot_of(region);
        post_native(NativeCommand::write, wire::WriteRequest{slot, static_cast<uint8_t>(keep ? 1 : 0), offset}, size);
    }
    void read(const wire::Region & region, uint64_t offset, uint64_t size) override {
        const uint16_t slot = slot_of(region);
        post_native(NativeCommand::read, wire::ReadRequest{slot, offset, size});
    }
    bool copy(const wire::Region & from, const wire::Region & to) override {
        slot_of(from);
        const uint16_t to_slot = slot_of(to);
        const uint16_t from_slot = slot_of(from);  // again: `to` may have replaced it
        post_native(NativeCommand::copy, wire::CopyRequest{from_slot, to_slot});
        return false;
    }
    void push(uint16_t link, const wire::Region & region) override {
        const uint16_t slot = slot_of(region);
        post_native(NativeCommand::push, wire::PushRequest{link, slot});
    }
    void take(uint64_t token, const wire::Region & region) override {
        const uint16_t slot = slot_of(region);
        post_native(NativeCommand::take, wire::TakeRequest{token, slot});
    }
    void reduce(const wire::ReduceRequest & request, std::span<const wire::Region> regions) override {
        std::array<uint16_t, wire::max_ranks> slots;
        for (int round = 0; round < 2; ++round) {  // again: a later region may have replaced an earlier one
            for (size_t i = 0; i < regions.size(); ++i) {
                slots[i] = slot_of(regions[i]);
            }
        }
        const auto bytes = std::as_bytes(std::span(slots).first(regions.size()));
        post_native(NativeCommand::reduce, request, bytes.size());
        stream_.append(bytes);
    }
    void find(const wire::Region & region, uint64_t offset, uint64_t size, ConstBytes digest) override {
        wire::FindRequest request{slot_of(region), offset, size, {}};
        std::ranges::copy(digest, request.digest);
        post_native(NativeCommand::find, request);
    }
    void find_part(const wire::Region & region, uint64_t offset, wire::FindPartRequest request) override {
        request.slot = slot_of(region);
        request.offset = offset;
        post_native(NativeCommand::find_part, request);
    }

    Launch prepare(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) override {
        Launch out;
        if (GraphSlots::Slot * known = graphs_.find(device, graph.uid)) {
            launch_known(out, *known);
            return out;
        }
        CollectedGraph collected = collect_graph(graph, handle_of);
        if (collected.n_nodes == 0) {
            return out;
        }
        std::vector<wire::GraphTensor> tensors = encode_native_graph(collected, handle_of);
        // A graph without a uid, or with a new one, may equal one that the server has. Launching that one saves building it,
        // and GPU back-ends keep what they prepared for it (CUDA graphs).
        if (GraphSlots::Slot * same = graphs_.find_equal(device, graph.uid, tensors)) {
            launch_known(out, *same);
            return out;
        }
        const GraphSlots::Slot * base = graphs_.base(device, tensors);
        const uint16_t base_slot = base == nullptr ? wire::no_base : graphs_.index_of(*base);
        const auto n_tensors = static_cast<uint32_t>(tensors.size());
        std::vector<std::byte> difference;
        wire::encode_difference(base == nullptr ? std::span<const wire::GraphTensor>() : base->tensors, tensors, difference);
        // The read is not inherited: it may be of a buffer that does not exist any more.
        const bool immediate_read = base != nullptr && base->kept.habit.immediate_read;
        KeptGraph kept{std::move(collected.footprint), {.immediate_read = immediate_read, .read = {}}};
        GraphSlots::Slot & slot = graphs_.store(device, graph.uid, std::move(tensors), std::move(kept), base);
        const wire::GraphRequest request{device, graphs_.index_of(slot), base_slot, n_tensors};
        append(out.bytes, wire::frame(static_cast<wire::Command>(NativeCommand::graph), request, difference.size()));
        append(out.bytes, difference);
        graphs_.record_launch(slot);
        out.is_empty = false;
        out.kept = &slot.kept;
        return out;
    }

    void forget_graphs() override { graphs_.forget(); }  // the client does not know which used the buffer

private:
    static void append(std::vector<std::byte> & out, ConstBytes bytes) {
        out.insert(out.end(), bytes.begin(), bytes.end());
    }

    // Declares the region if it has no slot. Slots are reused in rotation.
    uint16_t slot_of(const wire::Region & region) {
        if (const auto known = slots_.find(region); known != slots_.end()) {
            return known->second;
        }
        const uint16_t slot = next_slot_;
        next_slot_ = static_cast<uint16_t>((next_slot_ + 1) % wire::max_tensor_slots);
        if (declared_[slot]) {
            slots_.erase(*declared_[slot]);
        }
        declared_[slot] = region;
        slots_.emplace(region, slot);
        wire::DeclareRequest request{slot, {region.type, {}, {}, region.address}};
        std::memcpy(request.region.ne, region.ne, sizeof region.ne);  // not aligned there
        std::memcpy(request.region.nb, region.nb, sizeof region.nb);
        post_native(NativeCommand::declare, request);
        return slot;
    }

    void launch_known(Launch & out, GraphSlots::Slot & slot) {
        append(out.bytes, wire::frame(static_cast<wire::Command>(NativeCommand::launch),
                                      wire::LaunchRequest{graphs_.index_of(slot)}));
        graphs_.record_launch(slot);
        out.is_empty = false;
        out.kept = &slot.kept;
    }

    std::unordered_map<wire::Region, uint16_t, RegionHash> slots_;
    std::vector<std::optional<wire::Region>> declared_{wire::max_tensor_slots};
    uint16_t next_slot_ = 0;
    GraphSlots graphs_;
};

}  // namespace

std::unique_ptr<NativeCommands> make_native_commands(Stream & stream) { return std::make_unique<Native>(stream); }

}  // namespace caravan::client
