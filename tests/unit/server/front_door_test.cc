#include "server/supervisor/front_door.h"

#include <gtest/gtest.h>

#include <array>
#include <optional>

#include "net/hello.h"
#include "wire/extension.h"
#include "wire/native.h"
#include "wire/record_check.h"
#include "wire/stock.h"
#include "wire/stock_rdma.h"
#include "support/wire_peer.h"
#include "tunables/net.h"
#include "tunables/supervisor.h"

namespace caravan::server {
namespace {

using test::bytes_of;
using test::message;
using test::operator+;
using test::WirePeer;
using wire::Command;
using Wants = FrontDoor::Wants;

std::vector<ControlMessage> two_devices() {
    return {{.alignment = 32, .max_size = 1000}, {.number = 1, .alignment = 64, .max_size = UINT64_MAX}};
}

struct Client {
    Client() {
        auto pair = test::socket_pair();
        net::set_non_blocking(pair.near.get(), true);
        door.emplace(std::move(pair.near), "tester", true);
        peer = WirePeer(std::move(pair.far));
    }
    Result<Wants> advance() { return door->advance(devices); }
    void greet() {
        ASSERT_TRUE(peer.ask(Command::hello, wire::HelloRequest{}));
        ASSERT_EQ(advance().value(), Wants::more);
        const auto hello = peer.receive_reply_as<wire::HelloReply>();
        EXPECT_EQ(hello.major, 8);
        EXPECT_EQ(hello.minor, 0);
    }

    std::vector<ControlMessage> devices = two_devices();
    std::optional<FrontDoor> door;
    WirePeer peer;
};

TEST(FrontDoor, GreetsByteByByte) {
    Client client;
    const auto hello = message(Command::hello, std::vector<std::byte>(24, std::byte{0xab}));  // capabilities are ignored
    for (const std::byte & b : hello) {
        EXPECT_EQ(client.peer.unread(), 0u);
        EXPECT_EQ(client.advance().value(), Wants::more);
        ASSERT_TRUE(client.peer.send({&b, 1}));
    }
    EXPECT_EQ(client.advance().value(), Wants::more);
    const auto answer = client.peer.receive_reply_as<wire::HelloReply>();
    EXPECT_EQ(std::tuple(answer.major, answer.minor, answer.patch), std::tuple(8, 0, 0));
    EXPECT_TRUE(std::ranges::all_of(answer.capabilities, [](std::byte b) { return b == std::byte{0}; }));
}

TEST(FrontDoor, WorkerRepliesToAStockClientWithRdma) {
    Client client;
    const wire::StockRdma queue_pair{17, 17, {0xfd, 0x77}};
    ASSERT_TRUE(client.peer.ask(Command::hello, queue_pair));
    if (!net::why_no_rdma().empty()) {
        EXPECT_EQ(client.advance().value(), Wants::more);
        EXPECT_EQ(load<wire::StockRdma>(client.peer.receive_reply_as<wire::HelloReply>().capabilities).qpn, 0u);
        return;
    }
    EXPECT_EQ(client.advance().value(), Wants::session);
    EXPECT_EQ(client.advance().value(), Wants::session) << "until there is a worker";
    EXPECT_EQ(client.peer.unread(), 0u);
    EXPECT_EQ(client.door->first_command(), Command::hello);
    EXPECT_EQ(client.door->prefix().size(), sizeof(wire::RequestHeader) + sizeof queue_pair);
    EXPECT_LE(client.door->prefix().size(), max_prefix);
    EXPECT_EQ(client.door->token(), 0u);
    EXPECT_FALSE(client.door->refuse("no worker")) << "the caller drops it";
}

TEST(FrontDoor, AnotherCaravanIsRecognized) {
    Client client;
    client.peer.ask(Command::hello, wire::Extension{});
    ASSERT_EQ(client.advance().value(), Wants::more);
    const auto answer = client.peer.receive_reply_as<wire::HelloReply>();
    EXPECT_EQ(answer.major, 8);
    const auto extension = load<wire::Extension>(answer.capabilities);
    EXPECT_TRUE(extension.is_caravan());
    EXPECT_EQ(extension.token, 0u) << "its peer did not say that it resumes";
    EXPECT_EQ(client.door->session_token(), 0u);
    client.peer.request(static_cast<Command>(23));
    EXPECT_FALSE(client.advance()) << "but has to keep to the protocol as well";
}

TEST(FrontDoor, SessionsAreResumedWithTokensThatDiffer) {
    uint64_t last = 0;
    for (int i = 0; i < 3; ++i) {
        Client client;
        wire::Extension hello;
        hello.features = wire::feature_resume;
        client.peer.ask(Command::hello, hello);
        ASSERT_EQ(client.advance().value(), Wants::more);
        const auto extension = load<wire::Extension>(client.peer.receive_reply_as<wire::HelloReply>().capabilities);
        EXPECT_NE(extension.token, 0u);
        EXPECT_NE(extension.token, last);
        EXPECT_EQ(extension.token, client.door->session_token());
        last = extension.token;
    }
}

TEST(FrontDoor, TellsTheirPlaceToThoseWhoAskForAdmission) {
    using Reason = wire::AdmissionReply::Reason;
    for (const bool asks : {true, false}) {
        Client client;
        client.peer.ask(Command::hello, wire::Extension{});
        ASSERT_TRUE(client.advance());
        const auto own = load<wire::Extension>(client.peer.receive_reply_as<wire::HelloReply>().capabilities);
        EXPECT_TRUE((own.features & wire::feature_admission) != 0);
        client.peer.request(asks ? wire::command_admission : wire::command_records);
        ASSERT_EQ(client.advance().value(), Wants::session);
        ASSERT_TRUE(client.door->send_position({2, Reason::server_full, 16}));
        if (asks) {
            const auto place = client.peer.receive_reply_as<wire::AdmissionReply>();
            EXPECT_EQ(+place.position, 2u);
            EXPECT_EQ(place.reason, Reason::server_full);
        }
        EXPECT_EQ(client.peer.unread(), 0u);
        EXPECT_EQ(client.door->prefix().size(), sizeof(wire::RequestHeader)) << "the worker admits it";
    }
}

TEST(FrontDoor, AClientThatAsksWithoutEndWaitsForTheOthers) {
    Client client;
    client.greet();
    constexpr int asked = 3 * tunable::commands_at_once;
    for (int i = 0; i < asked; ++i) {
        ASSERT_TRUE(client.peer.request(Command::device_count));
    }
    for (int turns = 0; turns < 3; ++turns) {
        EXPECT_EQ(client.peer.unread(), 0u);
        ASSERT_EQ(client.advance().value(), Wants::more);
        for (int i = 0; i < tunable::commands_at_once; ++i) {
            EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 2u);
        }
    }
}

TEST(FrontDoor, OnlyACaravanMayOfferRdma) {
    for (const auto & [is_caravan, offer] :
         {std::pair(true, message(wire::command_rdma_offer, bytes_of(wire::RdmaOffer{}))),
          std::pair(true, message(wire::command_rdma_rails, bytes_of(wire::RdmaRails{}))),
          std::pair(false, message(wire::command_rdma_offer, bytes_of(wire::RdmaOffer{}))),
          std::pair(false, message(wire::command_rdma_rails, bytes_of(wire::RdmaRails{})))}) {
        Client client;
        wire::Extension hello;
        hello.magic[7] = is_caravan ? '1' : '2';
        client.peer.ask(Command::hello, hello);
        ASSERT_TRUE(client.advance());
        client.peer.receive_reply_as<wire::HelloReply>();
        ASSERT_TRUE(client.peer.send(offer));
        const auto wants = client.advance();
        EXPECT_EQ(wants.has_value(), is_caravan);
        EXPECT_TRUE(!wants || *wants == Wants::session);
    }
}

TEST(FrontDoor, AnythingButAGreetingFirstIsRefused) {
    for (const auto & first :
         {message(Command::device_count), message(Command::alloc_buffer, std::vector<std::byte>(12)),
          message(Command::hello), message(Command::hello, std::vector<std::byte>(23)),
          message(Command::hello, std::vector<std::byte>(28)), message(static_cast<Command>(23)),
          message(static_cast<Command>(200)), bytes_of(wire::RequestHeader{Command::hello, UINT64_MAX}),
          bytes_of(wire::RequestHeader{Command::set_tensor, uint64_t{1} << 63}),
          bytes_of(std::string_view("GET / HTTP/1.1\r\n"))}) {
        Client client;
        ASSERT_TRUE(client.peer.send(first));
        const auto wants = client.advance();
        ASSERT_FALSE(wants);
        EXPECT_EQ(wants.error().code, Errc::protocol);
        EXPECT_EQ(client.peer.unread(), 0u) << "and gets no answer";
    }
}

TEST(FrontDoor, ASecondGreetingIsRefused) {
    Client client;
    client.greet();
    client.peer.ask(Command::hello, wire::HelloRequest{});
    const auto wants = client.advance();
    ASSERT_FALSE(wants);
    EXPECT_EQ(wants.error().code, Errc::protocol);
}

TEST(FrontDoor, AnswersWhatNeedsNoDevice) {
    Client client;
    client.greet();
    for (int round = 0; round < 3; ++round) {
        client.peer.request(Command::device_count);
        EXPECT_EQ(client.advance().value(), Wants::more);
        EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 2u);
        client.peer.ask(Command::get_alignment, uint32_t{1});
        client.peer.ask(Command::get_max_size, uint32_t{0});
        client.peer.ask(Command::get_max_size, uint32_t{1});
        EXPECT_EQ(client.advance().value(), Wants::more) << "several at once";
        EXPECT_EQ(client.peer.receive_reply_as<uint64_t>(), 64u);
        EXPECT_EQ(client.peer.receive_reply_as<uint64_t>(), 1000u);
        EXPECT_EQ(client.peer.receive_reply_as<uint64_t>(), UINT64_MAX);
    }
}

TEST(FrontDoor, MemoryIsAskedForAndAnsweredLater) {
    Client client;
    client.greet();
    client.peer.ask(Command::get_device_memory, uint32_t{1});
    client.peer.request(Command::device_count);
    ASSERT_EQ(client.advance().value(), Wants::memory);
    EXPECT_EQ(client.door->memory_device(), 1u);
    EXPECT_EQ(client.peer.unread(), 0u);
    ASSERT_TRUE(client.door->answer_memory(5, 7));
    const auto memory = client.peer.receive_reply_as<wire::DeviceMemoryReply>();
    EXPECT_EQ(+memory.free, 5u);
    EXPECT_EQ(+memory.total, 7u);
    EXPECT_EQ(client.advance().value(), Wants::more);
    EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 2u);
}

TEST(FrontDoor, DevicesThatDoNotExist) {
    for (const Command command : {Command::get_alignment, Command::get_max_size, Command::get_device_memory}) {
        for (const uint32_t device : {2u, UINT32_MAX}) {
            Client client;
            client.greet();
            client.peer.ask(command, device);
            const auto wants = client.advance();
            ASSERT_FALSE(wants);
            EXPECT_EQ(wants.error().code, Errc::invalid_argument);
        }
    }
}

TEST(FrontDoor, QuestionsOfTheWrongSize) {
    for (const auto & bad : {message(Command::device_count, std::vector<std::byte>(4)), message(Command::get_alignment),
                             message(Command::get_max_size, std::vector<std::byte>(8)),
                             bytes_of(wire::RequestHeader{Command::get_device_memory, uint64_t{1} << 63})}) {
        Client client;
        client.greet();
        client.peer.send(bad);
        const auto wants = client.advance();
        ASSERT_FALSE(wants);
        EXPECT_EQ(wants.error().code, Errc::protocol);
    }
}

TEST(FrontDoor, UnknownCommands) {
    for (const int command : {23, 24, 100, 200, 255}) {
        Client client;
        client.greet();
        client.peer.request(static_cast<Command>(command));
        const auto wants = client.advance();
        ASSERT_FALSE(wants) << command;
        EXPECT_EQ(wants.error().code, Errc::protocol);
    }
}

// The worker reads on where the door stopped: the header goes with the socket, everything behind it is still there.
TEST(FrontDoor, OtherCommandsWantASessionAndNoByteIsLost) {
    for (const auto & [command, payload] :
         {std::pair{Command::alloc_buffer, std::vector<std::byte>(12, std::byte{1})},
          {Command::get_alloc_size, std::vector<std::byte>(3260, std::byte{2})},
          {Command::set_tensor, std::vector<std::byte>(100'000, std::byte{3})},
          {Command::comm_init, std::vector<std::byte>(80, std::byte{4})}}) {
        Client client;
        client.greet();
        const auto sent = message(command, payload) + message(Command::device_count);
        client.peer.send(sent);
        ASSERT_EQ(client.advance().value(), Wants::session);
        const ConstBytes prefix = client.door->prefix();
        EXPECT_LE(prefix.size(), max_prefix);
        const std::vector before(prefix.begin(), prefix.end());
        WirePeer worker(client.door->release());
        EXPECT_EQ(before + worker.receive(sent.size() - before.size()), sent);
        EXPECT_EQ(worker.unread(), 0u);
        worker.reply(uint32_t{1});
        EXPECT_EQ(client.peer.receive_reply_as<uint32_t>(), 1u);
    }
}

TEST(FrontDoor, ASessionsFirstCommandMayArriveByteByByte) {
    Client client;
    client.greet();
    const auto sent = message(Command::alloc_buffer, std::vector<std::byte>(12, std::byte{1}));
    for (size_t i = 0; i < 9; ++i) {
        EXPECT_EQ(client.advance().value(), Wants::more);
        client.peer.send({&sent[i], 1});
    }
    EXPECT_EQ(client.advance().value(), Wants::session);
    EXPECT_TRUE(std::ranges::equal(client.door->prefix(), ConstBytes(sent).first(9)));
}

TEST(FrontDoor, LeavingIsClosedAtEveryPoint) {
    for (const size_t sent : {0u, 1u, 8u, 9u, 20u}) {
        Client client;
        const auto hello = message(Command::hello, std::vector<std::byte>(24));
        client.peer.send(ConstBytes(hello).first(sent));
        client.peer.close();
        const auto wants = client.advance();
        ASSERT_FALSE(wants) << sent;
        EXPECT_EQ(wants.error().code, Errc::closed);
    }
    Client client;
    client.greet();
    client.peer.close();
    EXPECT_EQ(client.advance().error().code, Errc::closed);
}

TEST(FrontDoor, NotReadingAnswersIsNotForEver) {
    Client client;
    client.greet();
    const auto question = message(Command::device_count);
    for (int i = 0; i < 1'000'000; ++i) {
        if (!client.peer.send(question)) {
            FAIL() << "the door stopped reading";
        }
        const auto wants = client.advance();
        if (!wants) {
            EXPECT_EQ(wants.error().code, Errc::closed);
            return;
        }
    }
    FAIL() << "a million answers are kept for a client that reads none";
}

TEST(FrontDoor, OnlyUnfinishedBusinessHasADeadline) {
    Client client;
    const TimePoint start = Clock::now();
    EXPECT_LE(client.door->deadline(), start + tunable::handshake_timeout);
    client.greet();
    EXPECT_EQ(client.door->deadline(), no_deadline) << "between questions it may be silent";
    const auto question = message(Command::get_alignment, bytes_of(uint32_t{0}));
    client.peer.send(ConstBytes(question).first(3));
    EXPECT_EQ(client.advance().value(), Wants::more);
    const TimePoint deadline = client.door->deadline();
    EXPECT_LE(deadline, Clock::now() + tunable::handshake_timeout);
    client.peer.send(ConstBytes(question).subspan(3, 7));
    EXPECT_EQ(client.advance().value(), Wants::more);
    EXPECT_EQ(client.door->deadline(), deadline) << "dripping bytes gain no time";
    client.peer.send(ConstBytes(question).subspan(10));
    EXPECT_EQ(client.advance().value(), Wants::more);
    EXPECT_EQ(client.door->deadline(), no_deadline);
}

struct Refused : Client {
    // Native and resumable, unless `features` are others.
    explicit Refused(uint32_t features = wire::feature_native | wire::feature_resume) {
        wire::Extension hello;
        hello.features = features;
        peer.ask(Command::hello, hello);
        EXPECT_EQ(advance().value(), Wants::more);
        peer.receive_reply_as<wire::HelloReply>();
    }
    Result<Wants> advance() { return door->advance(devices, outage); }

    std::string outage = "no worker\nfor you";
};

constexpr std::string_view said = "no worker?for you";
const uint64_t ended_head = uint64_t{1} << wire::reply_kind_shift | said.size();

TEST(FrontDoor, AnOutageIsReportedToNativeClients) {
    for (const Command command : {Command::device_count, Command::alloc_buffer, Command::get_device_memory}) {
        Refused client;
        client.peer.request(command);
        EXPECT_EQ(client.advance().value(), Wants::more);
        EXPECT_TRUE(client.door->is_refused());
        EXPECT_EQ(client.peer.receive(sizeof ended_head + said.size()), bytes_of(ended_head) + bytes_of(said));
        EXPECT_LE(client.door->deadline(), Clock::now() + seconds(5));
        EXPECT_EQ(client.advance().value(), Wants::more) << "it waits for the client to close";
        client.peer.close();
        EXPECT_EQ(client.advance().error().code, Errc::closed);
    }
}

TEST(FrontDoor, AnOutageIsReportedInTheFirstRecord) {
    Refused client;
    client.peer.request(wire::command_records);
    EXPECT_EQ(client.advance().value(), Wants::more);
    const auto header = load<wire::RecordHeader>(client.peer.receive(sizeof(wire::RecordHeader)).data());
    const auto data = client.peer.receive(header.length);
    EXPECT_EQ(data, bytes_of(ended_head) + bytes_of(said));
    EXPECT_EQ(header.acknowledged, 0u);
    EXPECT_EQ(header.check, wire::record_check(0, header, std::array{ConstBytes(data)}));
}

TEST(FrontDoor, AnOutageDeclinesRdmaFirst) {
    Refused client;
    client.peer.ask(wire::command_rdma_offer, wire::RdmaOffer{});
    EXPECT_EQ(client.advance().value(), Wants::more);
    const auto answer = client.peer.receive_reply_as<wire::RdmaReply>();
    EXPECT_EQ(answer.accepted, 0);
    EXPECT_EQ(std::string_view(answer.reason), said);
    client.peer.request(wire::command_records);
    EXPECT_EQ(client.advance().value(), Wants::more);
    EXPECT_EQ(load<wire::RecordHeader>(client.peer.receive(sizeof(wire::RecordHeader)).data()).length,
              sizeof ended_head + said.size());
}

TEST(FrontDoor, AnOutageDeclinesSeveralQueuePairsToo) {
    Refused client;
    client.peer.ask(wire::command_rdma_rails, wire::RdmaRails{.count = 2, .queue_pairs = {}});
    EXPECT_EQ(client.advance().value(), Wants::more);
    const auto answer = client.peer.receive_reply_as<wire::RdmaRailsReply>();
    EXPECT_EQ(answer.accepted, 0);
    EXPECT_EQ(std::string_view(answer.reason), said);
    client.peer.request(wire::command_records);
    EXPECT_EQ(client.advance().value(), Wants::more);
}

// One that goes on with offers would have the server answer nobody else.
TEST(FrontDoor, AnOutageDeclinesRdmaOnce) {
    Refused client;
    const auto offer = message(wire::command_rdma_offer, bytes_of(wire::RdmaOffer{}));
    ASSERT_TRUE(client.peer.send(offer + offer + offer));
    const auto wants = client.advance();
    ASSERT_FALSE(wants);
    EXPECT_EQ(wants.error().code, Errc::protocol);
    client.peer.receive_reply_as<wire::RdmaReply>();
    EXPECT_EQ(client.peer.unread(), 0u);
}

// A client in the queue. `features`: announced by the client.
struct Queued : Client {
    explicit Queued(uint32_t features) {
        peer.ask(Command::hello, wire::Extension{.features = features});
        EXPECT_EQ(advance().value(), Wants::more);
        peer.receive_reply_as<wire::HelloReply>();
        peer.request(wire::command_admission);
        EXPECT_EQ(advance().value(), Wants::session);
    }
    void send_position(uint32_t position) {
        EXPECT_TRUE(door->send_position({position, wire::AdmissionReply::Reason::server_full, 1}));
        EXPECT_EQ(+peer.receive_reply_as<wire::AdmissionReply>().position, position);
    }
};

TEST(FrontDoor, ClientConfirmsEachPosition) {
    Queued client(wire::feature_admission | wire::feature_confirm);
    EXPECT_TRUE(client.door->can_confirm());
    EXPECT_FALSE(client.door->awaits_confirmation());
    for (const uint32_t position : {2, 1}) {
        client.send_position(position);
        ASSERT_TRUE(client.door->read_confirmation());
        EXPECT_TRUE(client.door->awaits_confirmation()) << "nothing was sent yet";
        EXPECT_FALSE(client.door->is_confirmed());
        const auto confirmation = message(wire::command_admission);
        ASSERT_TRUE(client.peer.send(ConstBytes(confirmation).first(4)));
        ASSERT_TRUE(client.door->read_confirmation());
        EXPECT_TRUE(client.door->awaits_confirmation()) << "it is not complete";
        ASSERT_TRUE(client.peer.send(ConstBytes(confirmation).subspan(4)));
        ASSERT_TRUE(client.door->read_confirmation());
        EXPECT_FALSE(client.door->awaits_confirmation());
        EXPECT_TRUE(client.door->is_confirmed());
    }
    EXPECT_EQ(client.door->prefix().size(), sizeof(wire::RequestHeader)) << "the worker replies to one ADMISSION";
}

TEST(FrontDoor, OtherCommandInPlaceOfAConfirmationIsAnError) {
    Queued client(wire::feature_admission | wire::feature_confirm);
    client.send_position(1);
    client.peer.request(wire::command_records);
    EXPECT_EQ(client.door->read_confirmation().error().code, Errc::protocol);
    Queued leaves(wire::feature_admission | wire::feature_confirm);
    leaves.send_position(1);
    leaves.peer.close();
    EXPECT_EQ(leaves.door->read_confirmation().error().code, Errc::closed);
}

TEST(FrontDoor, OlderClientConfirmsNothing) {
    Queued client(wire::feature_admission);
    client.send_position(1);
    EXPECT_FALSE(client.door->can_confirm());
    EXPECT_FALSE(client.door->awaits_confirmation());
    EXPECT_FALSE(client.door->is_confirmed());
}

TEST(FrontDoor, AnOutageEndsStockConnections) {
    Client client;
    client.greet();
    client.peer.request(Command::device_count);
    EXPECT_EQ(client.door->advance(client.devices, "no worker").error().code, Errc::closed);
    client.door.reset();
    EXPECT_TRUE(client.peer.at_end());
}

}  // namespace
}  // namespace caravan::server
