// A client's stream with a server that sends the input: u8 number of expected replies, for each of them u8 half of its size,
// and the server's bytes.
#include "client/session/stream.h"

#include "kit.h"

extern "C" int LLVMFuzzerTestOneInput(const uint8_t * data, size_t size) {
    using namespace caravan;
    ConstBytes input = fuzz::input_bytes(data, size);
    std::vector<std::vector<std::byte>> replies(fuzz::take_number<uint8_t>(input) % 16);
    for (auto & reply : replies) {
        reply.assign(size_t{fuzz::take_number<uint8_t>(input)} * 2, std::byte{0xaa});
    }
    client::Stream stream(std::make_unique<fuzz::InputTransport>(input), seconds(60), microseconds{0});
    client::Stream::Lock lock(stream.mutex());
    std::vector<client::Stream::Ticket> tickets;
    for (auto & reply : replies) {
        std::ranges::fill(stream.append(5), std::byte{1});
        tickets.push_back(stream.expect(reply));
        if (tickets.size() % 4 == 0) {
            (void)stream.flush(lock, stream.position());
        }
    }
    for (const auto ticket : tickets) {
        const bool came = stream.await(lock, ticket).has_value();
        fuzz::require(came || stream.failure(), "await() returns a reply unless the stream has failed");
        if (const auto text = stream.take_refusal()) {
            fuzz::require(text->size() <= wire::max_error_text, "error texts are bounded");
        }
        (void)stream.take_launch_failure();
    }
    for (size_t i = 0; i < replies.size(); ++i) {
        fuzz::require(stream.is_done(tickets[i]), "no reply is awaited for ever");
    }
    return 0;
}
