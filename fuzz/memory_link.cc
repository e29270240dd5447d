// The other end of a link through shared memory writes the input into the memory, at places that it chooses, between the
// operations of this end.
#include "kit.h"
#include "server/links/memory_link.h"
#include "server/links/reduction_group.h"

namespace caravan::fuzz {
namespace {

// The network's link beside the memory. Each wait lets the other end write once more.
class Accomplice final : public net::Transport {
public:
    Accomplice(ConstBytes input, MutableBytes memory) : rest_(input), memory_(memory) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        require(parts.size() == 1 && parts[0].size() == 1, "only bells are sent over the network");
        write();
        return 1;
    }
    Result<size_t> receive(std::span<const MutableBytes>) override {
        write();
        return rest_.empty() ? Result<size_t>(fail(Errc::closed, "the peer has left")) : Result<size_t>(0);
    }
    Result<bool> wait(net::Interest, TimePoint, microseconds) override {
        write();
        return true;
    }
    void wake() override {}
    net::TransportKind kind() const override { return net::TransportKind::tcp; }

    // u16 place, u8 number of bytes, the bytes. A quarter of the places are positions and flags, the others are in the rings.
    void write() {
        const auto place = take_number<uint16_t>(rest_);
        const size_t size = std::min<size_t>(take_number<uint8_t>(rest_), rest_.size());
        const size_t at = place % 64 < 16 ? place % 16 * wire::cache_line : wire::at_ring(place % 2) + place / 64;
        std::copy_n(rest_.begin(), size, memory_.subspan(at).begin());
        rest_ = rest_.subspan(size);
    }

private:
    ConstBytes rest_;
    MutableBytes memory_;
};

}  // namespace
}  // namespace caravan::fuzz

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    ConstBytes input = fuzz::input_bytes(data, size);
    const auto choice = fuzz::take_number<uint8_t>(input);
    // A memory of its own, aligned to pages: an access beyond its end is a finding.
    const std::unique_ptr<std::byte, void (*)(void *)> owner(
        static_cast<std::byte *>(std::aligned_alloc(4096, wire::shared_memory_size)), std::free);
    const MutableBytes memory(owner.get(), wire::shared_memory_size);
    std::ranges::fill(memory, std::byte{0});
    fuzz::Accomplice network(input, memory);
    server::MemoryLink link(memory, (choice & 1) != 0, network);
    network.write();
    server::ReductionGroup group(choice >> 1 & 1, (choice & 2) != 0 ? std::vector<net::Transport *>{&link, nullptr}
                                                                    : std::vector<net::Transport *>{nullptr, &link},
                                 milliseconds(1));
    const std::atomic<bool> is_cancelled = false;
    std::vector<float> values(1 + (choice >> 2), 1.0f);
    for (int i = 0; i < 4; ++i) {
        (void)group.reduce(values, true, wire::Precision::f32, is_cancelled);
    }
    return 0;
}
