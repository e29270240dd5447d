#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <string>
#include <thread>

#include "doctor/report.h"
#include "net/socket.h"

namespace caravan::doctor {
namespace {

using Mark = Finding::Mark;
using Stage = EndpointFacts::Stage;
namespace fs = std::filesystem;

Machine healthy_machine() {
    Machine machine;
    machine.host = "here";
    machine.kernel = "Linux 6.12";
    machine.built_with_rdma = true;
    machine.has_verbs = true;
    machine.modules = {"ib_uverbs", "mlx5_ib"};
    machine.transport_mode = TransportMode::automatic;
    machine.ports = {{.device = "mlx5_0",
                      .port = 1,
                      .state = "ACTIVE",
                      .link_layer = "Ethernet",
                      .rate = "100 Gb/sec (4X EDR)",
                      .is_open = true,
                      .mtu = 4096,
                      .gids = {{2, "RoCEv1", "10.0.0.2", "eth1"}, {3, "RoCEv2", "10.0.0.2", "eth1"}}}};
    return machine;
}

EndpointFacts healthy_endpoint() {
    EndpointFacts endpoint;
    endpoint.endpoint = "10.0.0.1:50052";
    endpoint.stage = Stage::reached;
    endpoint.local_address = "10.0.0.2";
    endpoint.is_caravan = endpoint.server_has_rdma = true;
    endpoint.version = "8.0.0";
    endpoint.choice = GidChoice{true, "mlx5_0", 1, 3, "it is the local address"};
    endpoint.transport = net::TransportKind::rdma;
    endpoint.plain = Measured{net::TransportKind::tcp, 1, 4u << 20, 8u << 20, 200, 25.04, 40, 1e9, 2e9, ""};
    endpoint.rdma = Measured{net::TransportKind::rdma, 1, 4u << 20, 8u << 20, 200, 5, 7, 1.1e10, 1.2e10, ""};
    return endpoint;
}

EndpointFacts over_tcp(const std::string & why, Reason reason = Reason::unspecified) {
    EndpointFacts endpoint = healthy_endpoint();
    endpoint.transport = net::TransportKind::tcp;
    endpoint.why_not_rdma = net::NoRdma(why);
    endpoint.why_not_rdma.reason = reason;
    endpoint.why_not_rdma.is_at_server = why.starts_with("server: ");
    endpoint.rdma.reset();
    return endpoint;
}

// The only fault; fails the test unless there is exactly one.
Finding to_fix(const Findings & findings) {
    EXPECT_EQ(std::ranges::count(findings, Mark::fix, &Finding::mark), 1);
    const auto found = std::ranges::find(findings, Mark::fix, &Finding::mark);
    return found == findings.end() ? Finding{} : *found;
}

TEST(Doctor, HealthyMachineAndEndpointHaveNoFaults) {
    EXPECT_FALSE(any_to_fix(Report{"rpc-doctor", healthy_machine(), {healthy_endpoint()}}));
}

TEST(Doctor, MissingRdmaIsNoFaultUnlessRequested) {
    Machine machine = healthy_machine();
    machine.ports.clear();
    machine.has_verbs = false;
    machine.memlock = 64 << 10;
    EndpointFacts endpoint = over_tcp("no RDMA device", Reason::no_rdma_device);
    endpoint.choice = GidChoice{.why = "no RDMA device"};
    const Report report{"rpc-doctor", machine, {endpoint}};
    EXPECT_FALSE(any_to_fix(report));
    EXPECT_TRUE(page(report).contains("  ok    sessions use TCP\n")) << page(report);
    EXPECT_TRUE(page(report).ends_with("\nNo faults found.\n")) << page(report);
    EXPECT_FALSE(any_to_fix(findings_of(healthy_machine(), over_tcp("server: no RDMA device", Reason::no_rdma_device))));
    EndpointFacts stock = over_tcp("the server is a stock one");
    stock.is_caravan = stock.server_has_rdma = false;
    EXPECT_FALSE(any_to_fix(findings_of(healthy_machine(), stock)));
}

TEST(Doctor, RequestedRdmaWithoutDevicesIsAFault) {
    Machine machine = healthy_machine();
    machine.ports.clear();
    const Findings unasked = findings_of(machine);
    ASSERT_EQ(unasked.size(), 1u);
    EXPECT_EQ(unasked.front().mark, Mark::note);
    machine.settings = {{"GGML_RDMA_DEV", "mlx5_0"}};
    const Finding finding = to_fix(findings_of(machine));
    EXPECT_TRUE(finding.what.starts_with("no RDMA device"));
    EXPECT_TRUE(finding.advice.contains("rdma-core") && finding.advice.contains("mlx5_ib")) << finding.advice;
    machine.settings.clear();
    machine.transport_mode = TransportMode::rdma;
    EXPECT_EQ(to_fix(findings_of(machine)).what, finding.what);
    machine.built_with_rdma = false;
    EXPECT_TRUE(any_to_fix(findings_of(machine)));
}

TEST(Doctor, MissingLibibverbsIsNamed) {
    Machine machine = healthy_machine();
    machine.why_no_verbs = "libibverbs.so.1 is not installed";
    const Findings findings = findings_of(machine);
    EXPECT_FALSE(any_to_fix(findings));
    EXPECT_EQ(findings.front().what, "libibverbs.so.1 is not installed: all connections use TCP");
    EXPECT_TRUE(findings.front().advice.contains("libibverbs1"));
    EXPECT_TRUE(page({"rpc-doctor", machine, {}}).contains("  build: with RDMA, but libibverbs.so.1 is not installed\n"));
    machine.transport_mode = TransportMode::rdma;
    EXPECT_EQ(to_fix(findings_of(machine)).what, findings.front().what);
}

TEST(Doctor, FailingRdmaOfBothPeersIsAFault) {
    EXPECT_TRUE(any_to_fix(findings_of(healthy_machine(), over_tcp("no message got through over RDMA within 3 s"))));
}

TEST(Doctor, MissingRdmaIsANoteInABuildWithout) {
    Machine machine = healthy_machine();
    machine.ports.clear();
    machine.transport_mode = TransportMode::tcp;
    EXPECT_FALSE(any_to_fix(findings_of(machine)));
    EXPECT_FALSE(any_to_fix(findings_of(machine, over_tcp(""))));
    machine.transport_mode = TransportMode::automatic;
    machine.built_with_rdma = false;
    EXPECT_FALSE(any_to_fix(findings_of(machine)));
    const Findings findings = findings_of(machine, over_tcp("this client has no RDMA: built without it (-DGGML_RPC_RDMA=ON)"));
    EXPECT_FALSE(any_to_fix(findings));
    EXPECT_TRUE(findings.front().advice.contains("-DGGML_RPC_RDMA=ON"));
}

TEST(Doctor, DistinguishesPortsThatAreDownCannotBeOpenedOrHaveNoGid) {
    const auto machine_that_asks = [] {
        Machine machine = healthy_machine();
        machine.transport_mode = TransportMode::rdma;
        return machine;
    };
    Machine machine = machine_that_asks();
    machine.ports[0].state = "DOWN";
    EXPECT_TRUE(to_fix(findings_of(machine)).advice.contains("ip link set eth1 up"));
    machine = machine_that_asks();
    machine.ports[0].is_open = false;
    EXPECT_TRUE(to_fix(findings_of(machine)).advice.contains("/dev/infiniband"));
    machine = machine_that_asks();
    machine.ports[0].gids.clear();
    EXPECT_TRUE(to_fix(findings_of(machine)).advice.contains("IP address"));
}

TEST(Doctor, SecondPortThatIsDownIsNoFault) {
    Machine machine = healthy_machine();
    machine.ports.push_back({.device = "mlx5_1", .port = 1, .state = "DOWN", .link_layer = "Ethernet"});
    EXPECT_FALSE(any_to_fix(findings_of(machine)));
}

TEST(Doctor, LowMemlockLimitIsAFaultIfRdmaIsRequested) {
    Machine machine = healthy_machine();
    machine.memlock = 64 << 10;
    EXPECT_FALSE(any_to_fix(findings_of(machine)));
    machine.transport_mode = TransportMode::rdma;
    EXPECT_TRUE(to_fix(findings_of(machine)).advice.contains("ulimit -l unlimited"));
    machine.may_lock_all = true;
    EXPECT_FALSE(any_to_fix(findings_of(machine)));
    machine.may_lock_all = false;
    machine.memlock = locked_by_session;
    EXPECT_FALSE(any_to_fix(findings_of(machine)));
}

TEST(Doctor, MemlockLimitsTheServersOfOneProgram) {
    Machine machine = healthy_machine();
    machine.memlock = 8 << 20;
    const std::string what = "memlock limit 8 MiB is enough for RDMA with 2 servers in one program";
    EXPECT_TRUE(std::ranges::contains(findings_of(machine), what, &Finding::what));
}

TEST(Doctor, DistinguishesFullServersFromWorkersThatDoNotStart) {
    using Reason = wire::AdmissionReply::Reason;
    EndpointFacts endpoint = healthy_endpoint();
    endpoint.queue = {.position = 3, .reason = Reason::server_full, .sessions = 16};
    const Finding full = to_fix(findings_of(healthy_machine(), endpoint));
    EXPECT_TRUE(full.what.contains("full: 16 sessions") && full.what.contains("place 3")) << full.what;
    EXPECT_TRUE(full.advice.contains("--max-sessions")) << full.advice;
    endpoint.queue->reason = Reason::address_full;
    EXPECT_TRUE(to_fix(findings_of(healthy_machine(), endpoint)).advice.contains("--max-per-address"));
    endpoint.queue->reason = Reason::starting;
    EXPECT_TRUE(to_fix(findings_of(healthy_machine(), endpoint)).advice.contains("do not start"));
}

TEST(Doctor, DistinguishesSilentClosingAndForeignServers) {
    EndpointFacts endpoint;
    endpoint.stage = Stage::no_handshake;
    endpoint.failure = "it did not work";
    endpoint.advice = "do something";
    const auto what = [&](Errc code) {
        endpoint.failure_code = code;
        const Finding finding = to_fix(findings_of(healthy_machine(), endpoint));
        EXPECT_EQ(finding.advice, "do something");
        return finding.what;
    };
    EXPECT_EQ(what(Errc::timed_out), "it accepts connections, but does not reply: it did not work");
    EXPECT_EQ(what(Errc::reset), "it accepts connections, but closes them: it did not work");
    EXPECT_EQ(what(Errc::protocol), "it accepts connections, but is not an RPC server: it did not work");
}

TEST(Doctor, AdviceDependsOnTheReasonForTcp) {
    Machine machine = healthy_machine();
    machine.transport_mode = TransportMode::rdma;
    const auto advice = [&](const EndpointFacts & endpoint) { return to_fix(findings_of(machine, endpoint)).advice; };
    EndpointFacts stock = over_tcp("the server is a stock one");
    stock.is_caravan = stock.server_has_rdma = false;
    EXPECT_TRUE(advice(stock).contains("Caravan's rpc-server"));
    EndpointFacts plain_server = over_tcp("the server has no RDMA");
    plain_server.server_has_rdma = false;
    EXPECT_TRUE(advice(plain_server).contains("build the server"));
    EXPECT_TRUE(advice(over_tcp("no GID", Reason::no_rdma_gid)).contains("address of the RDMA interface"));
    EXPECT_TRUE(advice(over_tcp("ibv_reg_mr failed", Reason::memlock_limit)).contains("ulimit"));
    EXPECT_TRUE(advice(over_tcp("closed", Reason::rdma_device_closed)).contains("a container needs --device=/dev/infiniband"));
    EXPECT_TRUE(advice(over_tcp("no message", Reason::no_rdma_path)).contains("4791"));
    EXPECT_TRUE(advice(over_tcp("server: no RDMA device", Reason::no_rdma_device)).starts_with("at the server: ibv_devices"));
    EXPECT_TRUE(advice(over_tcp("no GID for a reason without a code")).contains("GGML_RPC_DEBUG=1"));
}

TEST(Doctor, RefusedSessionIsAFault) {
    Machine machine = healthy_machine();
    EndpointFacts endpoint = over_tcp("the server ended the connection");
    endpoint.transport.reset();
    for (const TransportMode wish : {TransportMode::automatic, TransportMode::tcp, TransportMode::rdma}) {
        machine.transport_mode = wish;
        EXPECT_TRUE(to_fix(findings_of(machine, endpoint)).what.starts_with("no session")) << text_of(wish);
    }
}

TEST(Doctor, FailedMeasurementsAndMissingDevicesAreFaults) {
    EndpointFacts endpoint = healthy_endpoint();
    endpoint.rdma->failure = "no progress for 5 s";
    EXPECT_TRUE(to_fix(findings_of(healthy_machine(), endpoint)).what.contains("over RDMA"));
    endpoint.rdma->failure_code = Errc::no_memory;
    EXPECT_TRUE(to_fix(findings_of(healthy_machine(), endpoint)).advice.contains("too little free memory"));
    endpoint = healthy_endpoint();
    endpoint.plain->devices = 0;
    EXPECT_TRUE(to_fix(findings_of(healthy_machine(), endpoint)).advice.contains("--list-devices"));
}

TEST(Doctor, PageMarksTheChosenGidAndShowsBothTransports) {
    EndpointFacts other = healthy_endpoint();
    other.endpoint = "10.0.0.7:1";
    const std::string text = page({"rpc-doctor", healthy_machine(), {healthy_endpoint(), other}});
    EXPECT_TRUE(text.contains("   *   3  RoCEv2  10.0.0.2")) << text;
    EXPECT_TRUE(text.contains("       2  RoCEv1  10.0.0.2")) << text;
    EXPECT_TRUE(text.contains("chosen for 10.0.0.1:50052, 10.0.0.7:1: it is the local address")) << text;
    EXPECT_TRUE(text.contains("25.0 µs        5.0 µs")) << text;
    EXPECT_TRUE(text.contains("1000 MB/s    11000 MB/s")) << text;
    EXPECT_TRUE(text.ends_with("\nNo faults found.\n")) << text;
}

TEST(Doctor, PageHasAdviceBelowItsFinding) {
    Machine machine = healthy_machine();
    machine.transport_mode = TransportMode::rdma;
    machine.memlock = 64 << 10;
    const std::string text = page({"rpc-doctor", machine, {}});
    EXPECT_TRUE(text.contains("  FIX   memlock limit 64 KiB is too low: a session needs 3 MiB\n        -> raise it")) << text;
    EXPECT_TRUE(text.ends_with("\nFaults found: see FIX above.\n")) << text;
}

TEST(Doctor, JsonHasTheSameFacts) {
    EndpointFacts down;
    down.endpoint = "b:1";
    down.stage = Stage::silent;
    down.failure = "\xff not UTF-8";
    const auto all = nlohmann::json::parse(json({"rpc-doctor", healthy_machine(), {healthy_endpoint(), down}}));
    EXPECT_EQ(all["well"], false);
    EXPECT_EQ(all["machine"]["ports"][0]["gids"][1]["address"], "10.0.0.2");
    EXPECT_TRUE(all["machine"]["memlock_bytes"].is_null());
    const auto & good = all["endpoints"][0];
    EXPECT_EQ(good["gid_choice"]["gid_index"], 3);
    EXPECT_EQ(good["measured"]["plain"]["median_us"], 25.0);
    EXPECT_EQ(good["measured"]["rdma"]["to_server_bytes_per_second"], 11'000'000'000);
    EXPECT_EQ(all["endpoints"][1]["stage"], "silent");
    EXPECT_EQ(all["endpoints"][1]["findings"][0]["mark"], "fix");
    EXPECT_TRUE(all["endpoints"][1]["transport"].is_null());
}

class KernelFiles : public testing::Test {
protected:
    KernelFiles() {
        std::string name = (fs::temp_directory_path() / "doctor-XXXXXX").string();
        root_ = ::mkdtemp(name.data());
    }
    ~KernelFiles() override { fs::remove_all(root_); }
    void write(const fs::path & path, const std::string & text) {
        fs::create_directories((root_ / path).parent_path());
        std::ofstream(root_ / path) << text;
    }
    fs::path root_;
};

TEST_F(KernelFiles, ListPorts) {
    EXPECT_TRUE(ports_in(root_).empty());
    write("sys/class/infiniband/mlx5_0/ports/1/state", "4: ACTIVE\n");
    write("sys/class/infiniband/mlx5_0/ports/1/link_layer", "InfiniBand\n");
    write("sys/class/infiniband/mlx5_0/ports/1/rate", "200 Gb/sec (4X HDR)\n");
    write("sys/class/infiniband/mlx5_0/ports/2/state", "1: DOWN\n");
    const auto ports = ports_in(root_);
    ASSERT_EQ(ports.size(), 2u);
    EXPECT_TRUE(ports[0].is_active());
    EXPECT_EQ(ports[0].rate, "200 Gb/sec (4X HDR)");
    EXPECT_EQ(ports[1].port, 2u);
    EXPECT_EQ(ports[1].state, "DOWN");
    EXPECT_FALSE(ports[1].is_open);
}

TEST_F(KernelFiles, ListModulesAndCapabilities) {
    write("proc/modules", "mlx5_ib 520192 0 - Live 0x0\next4 1 2 - Live 0x0\nib_uverbs 1 2 - Live 0x0\n");
    EXPECT_EQ(rdma_modules_in(root_), (std::vector<std::string>{"ib_uverbs", "mlx5_ib"}));
    EXPECT_FALSE(may_lock_all_in(root_));
    write("proc/self/status", "Name:\tx\nCapEff:\t0000000000004000\n");
    EXPECT_TRUE(may_lock_all_in(root_));
    write("proc/self/status", "Name:\tx\nCapEff:\t000001ffffffbfff\n");
    EXPECT_FALSE(may_lock_all_in(root_));
}

TEST(DoctorEndpoint, SilentAndRefusingServersGetAdvice) {
    auto listeners = net::listen_on("127.0.0.1", 0);
    ASSERT_TRUE(listeners.has_value());
    const net::Endpoint endpoint = listeners->front().endpoint;
    const Limits limits{.reply = milliseconds(50)};
    EndpointFacts facts = examine_endpoint(endpoint, limits);
    EXPECT_EQ(facts.stage, Stage::no_handshake);
    EXPECT_EQ(facts.failure, "no reply in time");
    EXPECT_TRUE(facts.advice.contains("one client at a time")) << facts.advice;
    EXPECT_EQ(facts.local_address, "127.0.0.1");
    EXPECT_TRUE(facts.is_local);
    listeners->clear();
    facts = examine_endpoint(endpoint, limits);
    EXPECT_EQ(facts.stage, Stage::unreachable);
    EXPECT_EQ(facts.failure, "cannot connect: Connection refused");
    EXPECT_EQ(facts.advice, formatted("check that rpc-server runs on this machine with -p {}", endpoint.port));
    EXPECT_FALSE(facts.plain.has_value());
    facts = examine_endpoint({.host = "no.such.host.invalid"}, limits);
    EXPECT_EQ(facts.stage, Stage::no_address);
    EXPECT_TRUE(facts.advice.contains("getent hosts")) << facts.advice;
}

TEST(DoctorEndpoint, ServerThatClosesConnectionsGetsAdvice) {
    auto listeners = net::listen_on("127.0.0.1", 0);
    ASSERT_TRUE(listeners.has_value());
    std::jthread dropper([&](const std::stop_token & stop) {
        while (!stop.stop_requested()) {
            [[maybe_unused]] const auto closed_at_once = net::accept_socket(listeners->front().fd.get());
        }
    });
    const EndpointFacts facts = examine_endpoint(listeners->front().endpoint, {.reply = seconds(30)});
    EXPECT_EQ(facts.stage, Stage::no_handshake);
    EXPECT_TRUE(facts.failure_code == Errc::closed || facts.failure_code == Errc::reset) << facts.failure;
    EXPECT_TRUE(facts.advice.contains("server's log")) << facts.advice;
}

// Replies to every request with zeros, one byte per receive().
class TricklingTransport : public net::Transport {
public:
    Result<size_t> send(std::span<const ConstBytes> parts) override {
        size_t size = 0;
        for (const ConstBytes part : parts) {
            size += part.size();
        }
        return size;
    }
    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        parts.front().front() = std::byte{arrived_++ == 0 ? uint8_t{4} : uint8_t{0}};  // the size of the reply to DEVICE_COUNT
        return arrived_ < 8 ? 1 : 0;
    }
    Result<bool> wait(net::Interest, TimePoint, microseconds) override { return true; }
    void wake() override {}
    net::TransportKind kind() const override { return net::TransportKind::tcp; }

private:
    int arrived_ = 0;
};

TEST(DoctorMeasure, TricklingPeerCannotExceedTheTimeLimit) {
    const Measured measured = measure(std::make_unique<TricklingTransport>(),
                                      {.reply = milliseconds(60'000), .total = milliseconds(50)});
    EXPECT_TRUE(measured.failure.contains("not finished")) << measured.failure;
    EXPECT_EQ(measured.round_trips, 0u);
}

TEST(AllReduce, PredictsFromTheTimeOfASum) {
    // Two servers, no time for sums: only the repeated part limits the speed.
    EXPECT_NEAR(predicted_speed(2, 10'000, 32, 0), 1 / (repeated_part + (1 - repeated_part) / 2), 1e-9);
    // 64 sums of 100 us cost 6.4 ms of a token of 10 ms.
    EXPECT_NEAR(predicted_speed(2, 10'000, 32, 100), 1 / (0.05 + 0.475 + 0.64), 1e-9);
}

TEST(AllReduce, InterpolatesTheTimeOfASum) {
    const std::vector<SumTime> sums{{1000, 10}, {2000, 30}};
    EXPECT_EQ(time_of_sum(sums, 1500), 20);
    EXPECT_EQ(time_of_sum(sums, 2000), 30);
    EXPECT_EQ(time_of_sum(sums, 1), 10);
    EXPECT_EQ(time_of_sum(sums, 9999), 30);
    EXPECT_EQ(time_of_sum({}, 1), 0);
}

}  // namespace
}  // namespace caravan::doctor
