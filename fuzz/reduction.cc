// One or two other ranks of an all-reduce group, or the other rank of a stock comm. The first three bytes of the input choose
// group and algorithm, the number of further elements in each reduction, and how the rest of the input is divided between the
// two ranks.
#include <cmath>

#include "kit.h"
#include "server/links/reduction_group.h"

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    ConstBytes input = fuzz::input_bytes(data, size);
    if (input.size() < 3) {
        return 0;
    }
    const auto choice = fuzz::take_number<uint8_t>(input);
    const auto further = fuzz::take_number<uint8_t>(input);
    const size_t share = fuzz::take_number<uint8_t>(input) * input.size() / 255;
    const bool is_bare = choice >> 7 != 0;
    const size_t n_ranks = is_bare ? 2 : 2 + choice % 2, rank = (choice >> 4) % n_ranks;
    const auto precision = (choice >> 3 & 1) == 0 ? wire::Precision::f32 : wire::Precision::bf16;
    std::optional<server::Algorithm> algorithm;
    if (const int number = choice >> 1 & 3; number < 3 && !is_bare) {
        algorithm = static_cast<server::Algorithm>(number);
    }
    std::array<fuzz::InputTransport, 2> peers{fuzz::InputTransport(input.first(share)),
                                              fuzz::InputTransport(input.subspan(share))};
    std::vector<net::Transport *> links(n_ranks);
    for (size_t i = 0, peer = 0; i < n_ranks; ++i) {
        links[i] = i == rank ? nullptr : &peers[peer++];
    }
    server::ReductionGroup group(rank, links, seconds(1), algorithm, milliseconds(0),
                                 is_bare ? server::Framing::bare : server::Framing::headers);
    const std::atomic<bool> is_cancelled = false;
    std::vector<float> values(1 + further, 1.0f);
    for (uint64_t number = 0;; ++number) {
        const bool is_valid = is_bare || number % 3 != 2;
        const auto reduced = group.reduce(values, is_valid, precision, is_cancelled);
        fuzz::require(!reduced || is_valid, "an invalid term makes no sum");
        if (!reduced && reduced.error().code != Errc::unavailable) {
            fuzz::require(!group.reduce(values, true, precision, is_cancelled), "a failure of the group is permanent");
            break;
        }
        if (!reduced && number * values.size() > size) {
            break;  // the input has ended
        }
    }
    return 0;
}
