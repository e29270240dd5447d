// One client, served in the stock dialect, from behind the HELLO to the end of the connection. One thread.
#pragma once

#include <optional>
#include <unordered_map>
#include <vector>

#include "cache/weights.h"
#include "net/inbound.h"
#include "server/buffer_table.h"
#include "server/devices.h"
#include "server/graph_builder.h"
#include "wire/stock.h"

namespace caravan::server {

class Session {
public:
    // `already`: bytes of the first command that were received elsewhere. `weights` may be null.
    Session(net::Transport & transport, ConstBytes already, Devices & devices, cache::Weights * weights);

    // Until the client leaves (Errc::closed), breaks the protocol or asks for something impossible.
    Error run();

    // Did it hold a buffer or compute anything?
    bool did_work() const { return buffers_.peak_bytes() > 0 || launches_ > 0; }
    // "12 graphs computed 640 times, 97 MiB in, 2 MiB out, at most 530 MiB of buffers".
    std::string summary() const;

private:
    Result<> serve_one();
    Result<> dispatch(wire::Command command, uint64_t size);

    Result<> alloc_buffer();
    Result<> free_buffer();
    Result<> clear_buffer();
    Result<> set_tensor(uint64_t size);
    Result<> set_tensor_2d(uint64_t size);
    Result<> set_tensor_hash();
    Result<> get_tensor();
    Result<> get_tensor_2d();
    Result<> copy_tensor();
    Result<> memset_tensor();
    Result<> init_tensor();
    Result<> get_alloc_size();
    Result<> compute(uint64_t size);
    Result<> recompute();

    template <class Request>
    Result<Request> take();
    template <class Answer>
    Result<> answer(const Answer & answer);
    Result<> answer_bytes(ConstBytes payload);
    Result<> check_device(uint32_t device) const;
    Result<> launch(uint32_t device, Graph & graph);
    bool load_cached(const wire::SetTensorHashRequest & request);

    net::Transport & transport_;
    net::Inbound in_;
    Devices & devices_;
    cache::Weights * weights_;
    BufferTable buffers_;
    std::vector<std::unordered_map<uint64_t, Graph>> graphs_;  // by device, by the client's uid
    std::optional<Graph> unkept_;                              // uid 0: may still be running
    std::vector<std::byte> scratch_;
    uint64_t bytes_out_ = 0, graphs_built_ = 0, launches_ = 0;
};

}  // namespace caravan::server
