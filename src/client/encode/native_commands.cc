// The native dialect. The client assigns regions and graphs to slots; the server's slots follow.

#include <algorithm>
#include <array>
#include <list>
#include <optional>
#include <string_view>
#include <unordered_map>

#include "client/encode/commands.h"

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
    void find(const wire::Region & region, uint64_t offset, uint64_t size, ConstBytes digest) override {
        wire::FindRequest request{slot_of(region), offset, size, {}};
        std::ranges::copy(digest, request.digest);
        post_native(NativeCommand::find, request);
    }

    Launch prepare(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) override {
        Launch out;
        if (GraphSlot * known = find_graph(device, graph.uid)) {
            out.is_empty = false;
            out.kept = &known->kept;
            append_launch(out.bytes, *known);
            return out;
        }
        CollectedGraph collected = collect_graph(graph, handle_of);
        if (collected.n_nodes == 0) {
            return out;
        }
        out.is_empty = false;
        std::vector<wire::GraphTensor> tensors = encode_native_graph(collected, handle_of);
        if (GraphSlot * same = find_equal(device, tensors)) {
            same->uid = graph.uid;
            out.kept = &same->kept;
            append_launch(out.bytes, *same);
            return out;
        }
        GraphSlot & slot = graphs_[oldest_graph()];
        // The graph that was last sent for this device is usually the most similar.
        const uint16_t base = last_graph_.contains(device) ? last_graph_[device] : wire::no_base;
        std::vector<std::byte> difference;
        wire::encode_difference(base == wire::no_base ? std::span<const wire::GraphTensor>() : graphs_[base].tensors,
                                tensors, difference);
        const wire::GraphRequest request{device, index_of(slot), base, static_cast<uint32_t>(tensors.size())};
        append(out.bytes, wire::frame(static_cast<wire::Command>(NativeCommand::graph), request, difference.size()));
        append(out.bytes, difference);
        // The read is not inherited: it may be of a buffer that does not exist any more.
        const bool immediate_read = base != wire::no_base && graphs_[base].kept.habit.immediate_read;
        slot = {.device = device, .uid = graph.uid, .on_server = true, .used = ++clock_, .tensors = std::move(tensors),
                .kept = {std::move(collected.footprint), {.immediate_read = immediate_read}}};
        last_graph_[device] = index_of(slot);
        out.kept = &slot.kept;
        return out;
    }

    // The server drops only graphs that used the buffer, but the client does not know which. Their tensors remain valid as
    // the base of a difference.
    void forget_graphs() override {
        for (GraphSlot & slot : graphs_) {
            slot.on_server = false;
        }
    }

private:
    struct GraphSlot {
        uint32_t device = 0;
        uint64_t uid = 0;        // ggml's; 0: none
        bool on_server = false;  // can be launched by its slot
        uint64_t used = 0;
        std::vector<wire::GraphTensor> tensors;
        KeptGraph kept;
    };

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

    GraphSlot * find_graph(uint32_t device, uint64_t uid) {
        if (uid == 0) {
            return nullptr;
        }
        const auto found = std::ranges::find_if(
            graphs_, [&](const GraphSlot & slot) { return slot.on_server && slot.uid == uid && slot.device == device; });
        return use(found);
    }
    // A graph without a uid, or with a new one, may equal one that the server has. Launching that one saves building it, and
    // GPU back-ends keep what they prepared for it (CUDA graphs).
    GraphSlot * find_equal(uint32_t device, const std::vector<wire::GraphTensor> & tensors) {
        const size_t size = tensors.size() * sizeof tensors[0];
        return use(std::ranges::find_if(graphs_, [&](const GraphSlot & slot) {
            return slot.on_server && slot.device == device && slot.tensors.size() == tensors.size() &&
                   std::memcmp(slot.tensors.data(), tensors.data(), size) == 0;
        }));
    }
    GraphSlot * use(std::vector<GraphSlot>::iterator slot) {
        if (slot == graphs_.end()) {
            return nullptr;
        }
        slot->used = ++clock_;
        return &*slot;
    }
    void append_launch(std::vector<std::byte> & out, const GraphSlot & slot) const {
        append(out, wire::frame(static_cast<wire::Command>(NativeCommand::launch), wire::LaunchRequest{index_of(slot)}));
    }
    size_t oldest_graph() const {
        return static_cast<size_t>(std::ranges::min_element(graphs_, {}, &GraphSlot::used) - graphs_.begin());
    }
    uint16_t index_of(const GraphSlot & slot) const { return static_cast<uint16_t>(&slot - graphs_.data()); }

    std::unordered_map<wire::Region, uint16_t, RegionHash> slots_;
    std::vector<std::optional<wire::Region>> declared_{wire::max_tensor_slots};
    uint16_t next_slot_ = 0;
    std::vector<GraphSlot> graphs_{wire::max_graph_slots};
    std::unordered_map<uint32_t, uint16_t> last_graph_;  // by device: slot of the graph that was last sent
    uint64_t clock_ = 0;
};

}  // namespace

std::unique_ptr<NativeCommands> make_native_commands(Stream & stream) { return std::make_unique<Native>(stream); }

}  // namespace caravan::client
