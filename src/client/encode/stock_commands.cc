#include <unordered_map>

#include "client/encode/commands.h"

namespace caravan::client {
namespace {

using wire::Command;

class StockCommands final : public Commands {
public:
    explicit StockCommands(Stream & stream) : Commands(stream) {}

    void initialize(const wire::Region & region) override { post(Command::init_tensor, stock_tensor(region)); }
    void fill(const wire::Region & region, uint64_t offset, uint64_t size, uint8_t value) override {
        post(Command::memset_tensor, wire::MemsetTensorRequest{stock_tensor(region), offset, size, value});
    }
    void write(const wire::Region & region, uint64_t offset, uint64_t size, bool keep) override {
        post(Command::set_tensor, wire::SetTensorRequest{stock_tensor(region), static_cast<uint8_t>(keep ? 1 : 0), offset},
             size);
    }
    void read(const wire::Region & region, uint64_t offset, uint64_t size) override {
        post(Command::get_tensor, wire::GetTensorRequest{stock_tensor(region), offset, size});
    }
    bool copy(const wire::Region & from, const wire::Region & to) override {
        post(Command::copy_tensor, wire::CopyTensorRequest{stock_tensor(from), stock_tensor(to)});
        return true;
    }

    Launch prepare(uint32_t device, const ggml_cgraph & graph, const HandleOf & handle_of) override {
        Launch out;
        auto & kept = kept_[device];
        if (const auto known = kept.find(graph.uid); graph.uid != 0 && known != kept.end()) {
            out.is_empty = false;
            out.kept = &known->second;
            append(out.bytes, wire::frame(Command::graph_recompute, wire::GraphRecomputeRequest{device, graph.uid}));
            return out;
        }
        CollectedGraph collected = collect_graph(graph, handle_of);
        if (collected.n_nodes == 0) {
            return out;
        }
        out.is_empty = false;
        const std::vector<std::byte> payload = encode_stock_graph(collected, graph.uid, device, handle_of);
        append(out.bytes, wire::frame_header(Command::graph_compute, payload.size()));
        append(out.bytes, payload);
        if (graph.uid == 0) {
            out.own = std::move(collected.footprint);
        } else {
            if (kept.size() >= wire::max_kept_graphs) {
                kept.clear();  // the server does the same
            }
            out.kept = &kept.emplace(graph.uid, KeptGraph{std::move(collected.footprint)}).first->second;
        }
        return out;
    }

    // A stock server drops all graphs whenever any buffer is freed.
    void forget_graphs() override { kept_.clear(); }

private:
    static void append(std::vector<std::byte> & out, ConstBytes bytes) {
        out.insert(out.end(), bytes.begin(), bytes.end());
    }

    std::unordered_map<uint32_t, std::unordered_map<uint64_t, KeptGraph>> kept_;  // by device, by uid
};

}  // namespace

void Commands::write_2d(const wire::Region & region, uint64_t offset, uint64_t size, uint64_t n_copies,
                        uint64_t stride) {
    post(Command::set_tensor_2d, wire::Tensor2dRequest{stock_tensor(region), offset, size, n_copies, stride},
         size * n_copies);
}

void Commands::read_2d(const wire::Region & region, uint64_t offset, uint64_t size, uint64_t n_copies, uint64_t stride) {
    post(Command::get_tensor_2d, wire::Tensor2dRequest{stock_tensor(region), offset, size, n_copies, stride});
}

std::unique_ptr<Commands> make_stock_commands(Stream & stream) { return std::make_unique<StockCommands>(stream); }

}  // namespace caravan::client
