// Another rank of an all-reduce group. The first byte of the input is the number of further elements in each reduction.
#include <cmath>

#include "kit.h"
#include "server/links/reduction_group.h"

extern "C" int LLVMFuzzerInitialize(int *, char ***) {
    caravan::fuzz::be_quiet();
    return 0;
}

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    const ConstBytes input = fuzz::input_bytes(data, size);
    if (input.empty()) {
        return 0;
    }
    fuzz::InputSocket socket(input.subspan(1));
    const auto link = net::make_socket_transport(std::move(socket.near));
    fuzz::require(link.has_value(), "a socket makes a transport");
    server::ReductionGroup group(0, {nullptr, link->get()}, seconds(1));
    const std::atomic<bool> is_cancelled = false;
    std::vector<float> values(1 + data[0], 1.0f);
    for (uint64_t number = 0;; ++number) {
        const bool is_valid = number % 3 != 2;
        const auto reduced = group.reduce(values, is_valid, is_cancelled);
        fuzz::require(!reduced || is_valid, "an invalid term makes no sum");
        if (!reduced && reduced.error().code != Errc::unavailable) {
            fuzz::require(!group.reduce(values, true, is_cancelled), "a failure of the group is permanent");
            break;
        }
        if (!reduced && number * values.size() > size) {
            break;  // the input has ended
        }
    }
    return 0;
}
