#include "bench/reduction_bench.h"

#include <algorithm>
#include <array>
#include <span>

#include "base/formatted.h"
#include "bench/table.h"
#include "doctor/adding_servers.h"

namespace caravan::bench {
namespace {

using doctor::AddingServers;
using Terms = std::vector<std::vector<client::Reductions::Term>>;  // of one sum, by rank

constexpr std::array<uint64_t, 6> tensor_sizes{4 << 10, 16 << 10, 64 << 10, 256 << 10, 1 << 20, 4 << 20};  // bytes
// A batch adds up several tensors, each at its own place in the buffer. A longer sum of zeros precedes it, at the beginning of
// the buffer: meanwhile all commands of the batch arrive at all servers.
constexpr uint64_t bytes_of_batch = 8 << 20, first_sum = 1 << 20;
constexpr uint64_t most_sums = 32, fewest_sums = 4;
constexpr uint64_t buffer_size = first_sum + std::max(bytes_of_batch, fewest_sums * tensor_sizes.back());
constexpr uint32_t term_limit = 1 << 19;  // 16 ranks' sum is below 2^24, the integers that a float has

uint64_t sums_of(uint64_t bytes) { return std::clamp(bytes_of_batch / bytes, fewest_sums, most_sums); }

uint32_t term(size_t rank, uint32_t number, size_t i) {
    return static_cast<uint32_t>(i * 7 + rank * 40'009 + number * 1'013) % term_limit;
}

// Servers that record the spans of their commands.
struct Recorded {
    AddingServers servers;
    TimePoint begin{};
    std::vector<uint64_t> clocks{};  // of each server, at `begin`

    Result<> start() {
        begin = Clock::now();
        for (const auto & rank : servers.ranks) {
            const auto clock = rank.connection->queries().start_spans();
            if (!clock) {
                return std::unexpected(clock.error());
            }
            clocks.push_back(*clock);
        }
        return {};
    }
    // Those since the last call.
    Result<std::vector<wire::Span>> take(size_t rank) const {
        return servers.ranks[rank].connection->queries().take_spans(clocks[rank], Clock::now() - begin);
    }
};

class Measurement {
public:
    Measurement(const Recorded & recorded, uint64_t bytes) : recorded_(recorded), bytes_(bytes) {
        for (uint64_t i = 0; i < sums_of(bytes); ++i) {
            sums_.push_back(terms(first_sum + i * bytes, bytes));
        }
    }

    // Adds `us` for each rank and sum.
    Result<> run(uint32_t number, std::vector<std::vector<double>> & us) {
        write(number);
        for (size_t rank = 0; rank < ranks().size(); ++rank) {
            if (const auto before = recorded_.take(rank); !before) {
                return std::unexpected(before.error());
            }
        }
        bool queued = recorded_.servers.group->reduce(terms(0, first_sum), wire::Precision::f32);
        for (size_t i = 0; queued && i < sums_.size(); ++i) {
            queued = recorded_.servers.group->reduce(sums_[i], wire::Precision::f32);
        }
        if (!queued) {
            return fail(Errc::unavailable, "a server is lost, or a link between servers broke; their logs have the reason");
        }
        if (auto right = check(number); !right) {
            return right;
        }
        for (size_t rank = 0; rank < ranks().size(); ++rank) {
            auto times = times_of(rank);
            if (!times) {
                return std::unexpected(times.error());
            }
            us.push_back(std::move(*times));
        }
        return {};
    }

private:
    std::span<const AddingServers::Rank> ranks() const { return recorded_.servers.ranks; }

    Terms terms(uint64_t offset, uint64_t bytes) const {
        Terms out;
        for (const auto & rank : ranks()) {
            out.push_back({doctor::row_of_floats(rank.buffer, offset, bytes)});
        }
        return out;
    }

    size_t floats() const { return bytes_ / sizeof(float); }

    void write(uint32_t number) {
        std::vector<float> values(floats());
        for (uint32_t sum = 0; sum < sums_.size(); ++sum) {
            for (size_t rank = 0; rank < ranks().size(); ++rank) {
                fill_terms(values, rank, number + sum);
                const auto & to = sums_[sum][rank].front();
                ranks()[rank].connection->data().set(to.region, to.range, 0, std::as_bytes(std::span(values)), false);
            }
        }
    }

    // Reads every sum from every server.
    Result<> check(uint32_t number) {
        std::vector<std::vector<float>> values(ranks().size(), std::vector<float>(floats()));
        for (uint32_t sum = 0; sum < sums_.size(); ++sum) {
            std::vector<client::Stream::Ticket> tickets;
            for (size_t rank = 0; rank < values.size(); ++rank) {
                const auto & from = sums_[sum][rank].front();
                tickets.push_back(ranks()[rank].connection->data().get(
                    from.region, from.range, 0, mutable_bytes(values[rank].data(), bytes_)));
            }
            for (size_t rank = 0; rank < values.size(); ++rank) {
                client::Connection & server = *ranks()[rank].connection;
                server.await(tickets[rank]);
                const std::string name = server.endpoint().text();
                if (server.has_failed_launch()) {
                    return fail(Errc::unavailable, "{}: the server could not compute a sum, or is lost; its log has the reason",
                                name);
                }
                if (const auto wrong = find_wrong_sum(values[rank], values.size(), number + sum)) {
                    return fail(Errc::protocol, "{}: element {} of a sum of {} is wrong: {}", name, *wrong, size_text(bytes_),
                                values[rank][*wrong]);
                }
            }
        }
        return {};
    }

    Result<std::vector<double>> times_of(size_t rank) const {
        const auto spans = recorded_.take(rank);
        if (!spans) {
            return std::unexpected(spans.error());
        }
        std::vector<double> out;
        for (const wire::Span & span : *spans) {
            if (span.what == static_cast<uint8_t>(wire::NativeCommand::reduce)) {
                out.push_back(static_cast<double>(span.end - span.begin) / 1e3);
            }
        }
        if (out.size() != sums_.size() + 1) {
            return fail(Errc::protocol, "{}: the server reported the times of {} sums instead of {}",
                        ranks()[rank].connection->endpoint().text(), out.size(), sums_.size() + 1);
        }
        out.erase(out.begin());
        return out;
    }

    const Recorded & recorded_;
    const uint64_t bytes_;
    std::vector<Terms> sums_;
};

void set_transports(ReductionBench & bench, const client::ServerGroup::Exchange & exchange, const AddingServers & servers) {
    const size_t pairs = servers.ranks.size() * (servers.ranks.size() - 1) / 2;
    const std::string & links = servers.group->transports();
    bench.transports = exchange.sharing_pairs == 0      ? links
                       : exchange.sharing_pairs < pairs ? "shared memory and " + links
                                                        : "shared memory";
}

// One batch of each size. The first measurement of a group includes the choice of its algorithms.
Result<> run_round(ReductionBench & bench, const Recorded & recorded, uint32_t round) {
    for (size_t position = 0; position < tensor_sizes.size(); ++position) {
        const size_t i = turn(round, position, tensor_sizes.size());
        std::vector<std::vector<double>> us;
        const auto number = static_cast<uint32_t>((round * tensor_sizes.size() + i) * most_sums);
        if (auto done = Measurement(recorded, tensor_sizes[i]).run(number, us); !done) {
            return done;
        }
        ReductionSamples & samples = bench.sizes[i];
        if (!samples.algorithm) {
            const auto exchange = recorded.servers.group->exchange(tensor_sizes[i]);
            if (!exchange && exchange.error().code != Errc::unsupported) {
                return std::unexpected(exchange.error());
            }
            if (exchange) {
                samples.algorithm = exchange->algorithm;
                set_transports(bench, *exchange, recorded.servers);
            }
        }
        samples.us.push_back(std::move(us));
    }
    return {};
}

}  // namespace

void fill_terms(std::span<float> out, size_t rank, uint32_t number) {
    for (size_t i = 0; i < out.size(); ++i) {
        out[i] = static_cast<float>(term(rank, number, i));
    }
}

std::optional<size_t> find_wrong_sum(std::span<const float> sums, size_t n_ranks, uint32_t number) {
    for (size_t i = 0; i < sums.size(); ++i) {
        uint32_t wanted = 0;
        for (size_t rank = 0; rank < n_ranks; ++rank) {
            wanted += term(rank, number, i);
        }
        if (sums[i] != static_cast<float>(wanted)) {
            return i;
        }
    }
    return std::nullopt;
}

void run(ReductionBench & bench, const std::vector<net::Endpoint> & endpoints, const Progress & progress) {
    for (const net::Endpoint & endpoint : endpoints) {
        bench.endpoints.push_back(endpoint.text());
    }
    for (const uint64_t bytes : tensor_sizes) {
        bench.sizes.push_back({.bytes = bytes, .algorithm = {}, .us = {}});
    }
    auto servers = doctor::open_adding_servers(endpoints, buffer_size, bench.silence);
    if (!servers) {
        bench.failure = servers.error().text;
        return;
    }
    bench.transports = servers->group->transports();
    Recorded recorded{.servers = std::move(*servers)};
    auto done = recorded.start();
    for (uint32_t round = 0; done && round < bench.rounds; ++round) {
        done = run_round(bench, recorded, round);
        if (done) {
            progress(formatted("round {} of {} done", round + 1, bench.rounds));
        }
    }
    if (!done) {
        bench.failure = done.error().text;
    }
}

}  // namespace caravan::bench
