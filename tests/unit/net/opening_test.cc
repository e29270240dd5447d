// Opening sessions and links on a scripted server.
#include "net/opening.h"

#include <gtest/gtest.h>

#include <atomic>
#include <thread>
#include <vector>

#include "net/inbound.h"
#include "net/server_handshake.h"
#include "support/scripted_server.h"
#include "wire/record_check.h"

namespace caravan::net {
namespace {

using test::bytes_of;
using test::WirePeer;
using Server = test::ScriptedServer;
using test::operator+;

// One byte, as the first record of a stream.
std::vector<std::byte> one_byte() {
    const std::vector data(1, std::byte{5});
    wire::RecordHeader header{1, 0, 0};
    const std::array parts{ConstBytes(data)};
    header.check = wire::record_check(0, header, parts);
    return bytes_of(header) + data;
}

TimePoint soon() { return Clock::now() + test::patience; }

const Pace quick{.idle_check = milliseconds(20), .pause = [](microseconds pause) { return pause / 20; }};

// Opens a session and uses it until it fails.
Error end_of(const Endpoint & endpoint, size_t to_receive = 1) {
    auto opened = open_client(endpoint, true, soon(), {}, quick);
    if (!opened) {
        return opened.error();
    }
    std::vector<std::byte> bytes(to_receive);
    auto received = receive_whole(*opened->transport, bytes, soon());
    EXPECT_FALSE(received);
    return received ? Error{} : received.error();
}

void close_sessions(WirePeer & peer, wire::Command first) {
    if (first != wire::command_lifeline) {
        peer.close();
    }
}

TEST(Opening, RestartsAnUnknownSessionAtMostEightTimes) {
    Server server(close_sessions);
    EXPECT_EQ(end_of(server.endpoint()).code, Errc::closed);
    EXPECT_EQ(server.count(wire::command_records), 8);
}

TEST(Opening, DoesNotRestartASessionAfterReceivingData) {
    Server server([](WirePeer & peer, wire::Command first) {
        if (first == wire::command_records) {
            peer.send(one_byte());
        }
        close_sessions(peer, first);
    });
    EXPECT_EQ(end_of(server.endpoint(), 2).code, Errc::closed);
    EXPECT_EQ(server.count(wire::command_records), 1);
    EXPECT_EQ(server.count(wire::command_resume), 1) << "the refusal is permanent";
}

TEST(Opening, EndsTheSessionIfTheServerNoLongerResumes) {
    for (const wire::Extension later : {wire::Extension{.features = wire::feature_native, .token = 78},
                                        wire::Extension{.features = Server::resumable.features, .token = 0}}) {
        // The first connection is the session's, the second its lifeline.
        Server server(close_sessions, [&](size_t number) { return number < 2 ? Server::resumable : later; });
        const Error end = end_of(server.endpoint());
        EXPECT_EQ(end.code, Errc::closed) << end.text;
        EXPECT_LE(server.count(wire::command_records), 2);
    }
}

TEST(Opening, EndsTheSessionAfterAMalformedReplyToResume) {
    for (const uint64_t size : {uint64_t{0}, uint64_t{7}, uint64_t{9}, UINT64_MAX}) {
        Server server([&](WirePeer & peer, wire::Command first) {
            if (first == wire::command_records) {
                peer.send(one_byte());
                peer.close();
            } else if (first == wire::command_resume) {
                peer.send(bytes_of(size) + bytes_of(uint64_t{0}));
            }
        });
        EXPECT_EQ(end_of(server.endpoint(), 2).code, Errc::closed) << size;
        EXPECT_EQ(server.count(wire::command_resume), 1) << size;
    }
}

TEST(Opening, OpensALinkThatTheServerAccepts) {
    Server server([](WirePeer & peer, wire::Command first) {
        if (first == wire::command_link) {
            peer.send(link_reply);
        }
    });
    const auto link = open_link(server.endpoint(), 5, soon());
    ASSERT_TRUE(link) << link.error().text;
    EXPECT_EQ(server.count(wire::command_link), 1);
}

TEST(Opening, RefusedLinkIsAnError) {
    Server refuses([](WirePeer & peer, wire::Command) {
        auto other = link_reply;
        other.back() = std::byte{0};
        peer.send(other);
    });
    EXPECT_EQ(open_link(refuses.endpoint(), 5, soon()).error().code, Errc::protocol);
    Server leaves([](WirePeer & peer, wire::Command) { peer.end_sending(); });
    const auto left = open_link(leaves.endpoint(), 5, soon());
    ASSERT_FALSE(left);
    EXPECT_TRUE(left.error().text.contains("did not accept the link")) << left.error().text;
    Server stock([](WirePeer &, wire::Command) {}, [](size_t) { return wire::Extension{.magic = {}}; });
    EXPECT_EQ(open_link(stock.endpoint(), 5, soon()).error().code, Errc::unsupported);
}

// A stock server with RDMA may have taken a Caravan client's capabilities for a queue pair.
TEST(Opening, StockServerWithRdmaGetsAnotherConnection) {
    for (const bool for_session : {false, true}) {
        std::atomic<int> connections = 0;
        Server stock([](WirePeer &, wire::Command) {}, [&](size_t) {
            ++connections;
            wire::Extension queue_pair{.qpn = 17, .magic = {}};
            queue_pair.magic[4] = 1;  // its GID
            return queue_pair;
        });
        const auto opened = open_client(stock.endpoint(), for_session, soon());
        ASSERT_TRUE(opened) << opened.error().text;
        EXPECT_EQ(opened->transport->kind(), TransportKind::tcp);
        EXPECT_FALSE(opened->peer_is_caravan || opened->peer_is_native);
        EXPECT_EQ(opened->why_not_rdma.empty(), !for_session) << "there is no device for 127.0.0.1";
        EXPECT_EQ(connections, 2);
    }
}

// The server's side. `sent` is what the peer sends after its HELLO with a token.
Result<TokenConnection> connection_with(const std::vector<std::byte> & sent, WirePeer & peer, bool expects_link = true) {
    auto pair = test::socket_pair();
    peer = WirePeer(std::move(pair.far));
    peer.send(ConstBytes(sent).subspan(sizeof(wire::RequestHeader)));
    peer.end_sending();
    set_non_blocking(pair.near.get(), true);
    return accept_with_token(std::move(pair.near), ConstBytes(sent).first(sizeof(wire::RequestHeader)), true,
                             [=] { return expects_link; });
}

TEST(Opening, AcceptsLinkAndResumeWithAToken) {
    WirePeer peer;
    const auto link = connection_with(test::message(wire::command_link), peer);
    ASSERT_TRUE(link) << link.error().text;
    EXPECT_FALSE(link->resume);
    EXPECT_EQ(peer.receive(link_reply.size()), std::vector(link_reply.begin(), link_reply.end()));

    const auto resume = connection_with(test::message(wire::command_resume, bytes_of(wire::ResumeRequest{9, 3})), peer);
    ASSERT_TRUE(resume) << resume.error().text;
    ASSERT_TRUE(resume->resume);
    EXPECT_EQ(+resume->resume->received, 9u);
    EXPECT_EQ(+resume->resume->attempt, 3u);
}

TEST(Opening, ClosesLinkThatIsNotExpected) {
    WirePeer peer;
    const auto link = connection_with(test::message(wire::command_link), peer, false);
    ASSERT_FALSE(link);
    EXPECT_EQ(link.error().code, Errc::not_found);
    EXPECT_TRUE(peer.at_end()) << "without a reply";
}

TEST(Opening, RefusesOtherCommandsWithAToken) {
    const std::vector<std::byte> attacks[] = {
        test::message(wire::Command::device_count),
        test::message(wire::command_records),
        test::message(wire::command_resume, std::vector<std::byte>(8)),  // too short
        test::message(wire::command_resume, std::vector<std::byte>(1000)),
        bytes_of(wire::RequestHeader{wire::command_resume, sizeof(wire::ResumeRequest)}) + bytes_of(uint64_t{1}),  // leaves
    };
    for (const auto & attack : attacks) {
        WirePeer peer;
        EXPECT_FALSE(connection_with(attack, peer)) << attack.size();
    }
}

// A server that ends sessions without RDMA. This client has no RDMA on the loopback interface.
wire::Extension only_rdma() {
    wire::Extension extension = Server::resumable;
    extension.features |= wire::feature_admission | wire::feature_only_rdma;
    return extension;
}

TEST(Opening, ReportsAServerThatAcceptsOnlyRdmaAndDoesNotQueueThere) {
    Server server([](WirePeer &, wire::Command) {}, [](size_t) { return only_rdma(); });
    const auto opened = open_client(server.endpoint(), true, soon());
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, Errc::unsupported);
    const std::string reason = "the server accepts only RDMA (GGML_RPC_TRANSPORT=rdma there), which is not available: ";
    EXPECT_TRUE(opened.error().text.starts_with(server.endpoint().text() + ": " + reason)) << opened.error().text;
    EXPECT_GT(opened.error().text.size(), server.endpoint().text().size() + reason.size() + 2) << "why it is not available";
    EXPECT_TRUE(opened.error().advice.contains("rpc-doctor " + server.endpoint().text())) << opened.error().advice;
    EXPECT_EQ(server.count(wire::command_admission), 0);
    EXPECT_TRUE(open_client(server.endpoint(), false, soon())) << "queries need no RDMA";
}

TEST(Opening, DoesNotResumeOverTcpWhereTheServerAcceptsOnlyRdma) {
    std::atomic<int> connections = 0;
    Server server(
        [](WirePeer & peer, wire::Command first) {
            if (first == wire::command_records) {
                peer.send(one_byte());
                peer.close();
            }
        },
        [&](size_t number) { return ++connections, number < 2 ? Server::resumable : only_rdma(); });
    auto opened = open_client(server.endpoint(), true, soon(), {}, quick);
    ASSERT_TRUE(opened) << opened.error().text;
    std::vector<std::byte> bytes(2);
    (void)receive_whole(*opened->transport, MutableBytes(bytes).first(1), soon());
    for (const TimePoint end = soon(); connections < 5 && Clock::now() < end;) {
        (void)opened->transport->wait({.read = true}, Clock::now() + milliseconds(20), microseconds(0));
    }
    EXPECT_GE(connections, 5) << "it tries again";
    EXPECT_EQ(server.count(wire::command_resume), 0);
}

constexpr wire::Extension with_queue{.features = Server::resumable.features | wire::feature_admission, .token = 77};

TEST(Opening, EndlessQueuePositionsTimeOut) {
    std::atomic<bool> stop = false;
    Server server(
        [&](WirePeer & peer, wire::Command) {
            const auto place = bytes_of(uint64_t{sizeof(wire::AdmissionReply)}) +
                               bytes_of(wire::AdmissionReply{5, wire::AdmissionReply::Reason::server_full, 7});
            std::vector<std::byte> many;
            while (many.size() < (1 << 16)) {
                many.insert(many.end(), place.begin(), place.end());
            }
            for (const TimePoint end = soon(); !stop && Clock::now() < end && peer.send(many);) {
            }
        },
        [](size_t) { return with_queue; });
    const TimePoint begin = Clock::now();
    const auto opened = open_client(server.endpoint(), true, Clock::now() + milliseconds(200), {});
    EXPECT_LT(Clock::now() - begin, test::patience / 2);
    stop = true;
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, Errc::timed_out);
}

// Waits for a second ADMISSION only if the server has announced that.
TEST(Opening, ConfirmsEachQueuePosition) {
    for (const bool server_confirms : {false, true}) {
        std::atomic<int> confirmations = 0;
        Server server(
            [&](WirePeer & peer, wire::Command first) {
                if (first != wire::command_admission) {
                    return;
                }
                for (const uint32_t position : {2, 1}) {
                    peer.reply(wire::AdmissionReply{position, wire::AdmissionReply::Reason::server_full, 7});
                    confirmations += server_confirms && peer.next().command == wire::command_admission ? 1 : 0;
                }
                peer.reply(wire::AdmissionReply{});
                EXPECT_EQ(peer.next().command, wire::command_records);
            },
            [&](size_t) {
                wire::Extension extension = with_queue;
                extension.features |= server_confirms ? wire::feature_confirm : 0;
                return extension;
            });
        const auto opened = open_client(server.endpoint(), true, soon(), {.until = soon(), .on_wait = {}});
        ASSERT_TRUE(opened) << opened.error().text;
        EXPECT_EQ(confirmations, server_confirms ? 2 : 0);
    }
}

TEST(Opening, LinkReplySentByteByByteTimesOut) {
    std::atomic<bool> stop = false;
    Server server([&](WirePeer & peer, wire::Command first) {
        if (first == wire::command_link) {
            for (const std::byte byte : link_reply) {
                peer.send(ConstBytes(&byte, 1));
                for (const TimePoint next = Clock::now() + milliseconds(150); !stop && Clock::now() < next;) {
                    std::this_thread::yield();
                }
            }
        }
    });
    const TimePoint begin = Clock::now();
    const auto opened = open_link(server.endpoint(), 5, begin + milliseconds(200));
    stop = true;
    ASSERT_FALSE(opened);
    EXPECT_EQ(opened.error().code, Errc::timed_out);
    EXPECT_LT(Clock::now() - begin, milliseconds(1000));
}

}  // namespace
}  // namespace caravan::net
