// A mutator that keeps the frame of a session's messages intact: u8 command, u64 size, payload. Without it, nearly every
// input would fail at a wrong size. A trailing part that does not parse as a message is kept as the last message.
#include <algorithm>
#include <random>

#include "base/bytes.h"
#include "server/graph/buffer_table.h"
#include "wire/native.h"

extern "C" size_t LLVMFuzzerMutate(uint8_t * data, size_t size, size_t max_size);

namespace caravan::fuzz {
namespace {

#ifdef CARAVAN_FUZZ_NATIVE
constexpr bool native = true;
#else
constexpr bool native = false;
#endif

constexpr size_t header_size = sizeof(wire::RequestHeader);
using Message = std::vector<std::byte>;

std::vector<Message> messages_of(ConstBytes input) {
    std::vector<Message> out;
    while (!input.empty()) {
        size_t size = input.size();
        if (size >= header_size) {
            const uint64_t payload = load<wire::RequestHeader>(input.data()).size;
            size = payload < size - header_size ? header_size + payload : size;
        }
        out.emplace_back(input.begin(), input.begin() + static_cast<ptrdiff_t>(size));
        input = input.subspan(size);
    }
    return out;
}

size_t write_messages(const std::vector<Message> & messages, uint8_t * data, size_t max_size) {
    size_t at = 0;
    for (const Message & message : messages) {
        const size_t size = std::min(message.size(), max_size - at);
        std::memcpy(data + at, message.data(), size);
        at += size;
    }
    return at;
}

void set_size(Message & message) {
    if (message.size() >= header_size) {
        auto header = load<wire::RequestHeader>(message.data());
        header.size = message.size() - header_size;
        store(message.data(), header);
    }
}

class Mutator {
public:
    explicit Mutator(unsigned seed) : random_(seed) {}

    void mutate(std::vector<Message> & messages, size_t max_size) {
        if (messages.empty()) {
            messages.push_back(make());
        }
        const size_t i = below(messages.size());
        switch (below(10)) {
            case 0: messages.insert(messages.begin() + static_cast<ptrdiff_t>(i), make()); break;
            case 1: messages.insert(messages.begin() + static_cast<ptrdiff_t>(i), messages[below(messages.size())]); break;
            case 2: messages.erase(messages.begin() + static_cast<ptrdiff_t>(i)); break;
            case 3: std::swap(messages[i], messages[below(messages.size())]); break;
            case 4: resize(messages[i], max_size); break;
            case 5:
            case 6: set_field(messages[i]); break;
            default: change_in_place(messages[i]); break;
        }
    }

    size_t below(size_t bound) { return std::uniform_int_distribution<size_t>(0, bound - 1)(random_); }

private:
    // A message of the minimum size.
    Message make() {
        const size_t stock = static_cast<size_t>(wire::Command::comm_free) + 1;
        const size_t first = static_cast<size_t>(wire::first_native);
        const size_t which = below(stock + (native ? wire::n_native_commands : 0));
        const auto command = static_cast<wire::Command>(which < stock ? which : which - stock + first);
        const auto bounds = wire::is_native(command) ? wire::payload_bounds(static_cast<wire::NativeCommand>(command))
                                                     : wire::payload_bounds(command);
        Message out(header_size + bounds.low);
        store(out.data(), wire::RequestHeader{command, bounds.low});
        return out;
    }

    void resize(Message & message, size_t max_size) {
        std::vector<uint8_t> bytes(max_size);
        const size_t begin = std::min(message.size(), header_size);
        std::memcpy(bytes.data(), message.data() + begin, message.size() - begin);
        bytes.resize(LLVMFuzzerMutate(bytes.data(), std::min(message.size() - begin, max_size), max_size));
        const auto changed = std::as_bytes(std::span(bytes));
        message.resize(begin);
        message.insert(message.end(), changed.begin(), changed.end());
        set_size(message);
    }

    // Changes some bytes of the payload, rarely of the header, without moving others.
    void change_in_place(Message & message) {
        const size_t begin = below(16) == 0 || message.size() <= header_size ? 0 : header_size;
        const size_t at = begin + below(message.size() - begin);
        std::array<uint8_t, 16> window{};
        const size_t size = std::min<size_t>(message.size() - at, 1 + below(window.size()));
        std::memcpy(window.data(), message.data() + at, size);
        LLVMFuzzerMutate(window.data(), size, size);
        std::memcpy(message.data() + at, window.data(), size);
    }

    // Writes a likely interesting number: small, at a limit, or an address in one of the first buffers.
    void set_field(Message & message) {
        const uint64_t address = (1 + below(3)) << server::offset_bits;
        const uint64_t values[] = {0, 1, 2, 3, 4, 32, 64, 256, below(4096), address, address + 4 * below(1024),
                                   UINT32_MAX, INT64_MAX, UINT64_MAX, uint64_t{1} << (8 + below(56)),
                                   0 - uint64_t{1 + below(64)}};
        const uint64_t value = values[below(std::size(values))];
        const size_t size = below(2) == 0 ? sizeof(uint64_t) : sizeof(uint32_t);
        if (message.size() >= header_size + size) {
            std::memcpy(message.data() + header_size + below(message.size() - header_size - size + 1), &value, size);
        }
    }

    std::minstd_rand random_;
};

}  // namespace
}  // namespace caravan::fuzz

extern "C" size_t LLVMFuzzerCustomMutator(uint8_t * data, size_t size, size_t max_size, unsigned seed) {
    using namespace caravan::fuzz;
    Mutator mutator(seed);
    if (mutator.below(32) == 0) {
        return LLVMFuzzerMutate(data, size, max_size);
    }
    auto messages = messages_of(caravan::const_bytes(data, size));
    mutator.mutate(messages, max_size);
    return write_messages(messages, data, max_size);
}

extern "C" size_t LLVMFuzzerCustomCrossOver(const uint8_t * one, size_t size_one, const uint8_t * other,
                                            size_t size_other, uint8_t * out, size_t max_size, unsigned seed) {
    using namespace caravan::fuzz;
    Mutator mutator(seed);
    auto messages = messages_of(caravan::const_bytes(one, size_one));
    const auto more = messages_of(caravan::const_bytes(other, size_other));
    messages.resize(mutator.below(messages.size() + 1));
    const size_t from = mutator.below(more.size() + 1);
    messages.insert(messages.end(), more.begin() + static_cast<ptrdiff_t>(from), more.end());
    return write_messages(messages, out, max_size);
}
