#include "doctor/all_reduce.h"

#include <algorithm>
#include <array>

#include "doctor/adding_servers.h"

namespace caravan::doctor {
namespace {

using client::Reductions;

constexpr std::array<uint64_t, 5> sizes{4 << 10, 16 << 10, 64 << 10, 256 << 10, 2 << 20};  // bytes
constexpr size_t batch = 16, rounds = 9;

// Queues `count` sums, and waits until all ranks have them.
bool run(const AddingServers & servers, uint64_t bytes, size_t count) {
    const std::vector<AddingServers::Rank> & ranks = servers.ranks;
    std::vector<std::vector<Reductions::Term>> terms;
    for (const AddingServers::Rank & rank : ranks) {
        terms.push_back({row_of_floats(rank.buffer, 0, bytes)});
    }
    for (size_t i = 0; i < count; ++i) {
        if (!servers.group->reduce(terms, wire::Precision::f32)) {
            return false;
        }
    }
    std::vector<float> results(ranks.size());
    std::vector<client::Stream::Ticket> tickets;
    for (size_t i = 0; i < ranks.size(); ++i) {
        const Reductions::Term & term = terms[i].front();
        const MutableBytes result = mutable_bytes(&results[i], sizeof(float));
        tickets.push_back(ranks[i].connection->data().get(term.region, term.range, 0, result));
    }
    bool works = true;
    for (size_t i = 0; i < ranks.size(); ++i) {
        ranks[i].connection->await(tickets[i]);
        works = works && !ranks[i].connection->failed() && results[i] == 0;
    }
    return works;
}

}  // namespace

AllReduceFacts measure_all_reduce(const std::vector<net::Endpoint> & endpoints, const Limits & limits) {
    AllReduceFacts out;
    const auto failed = [&](std::string why) {
        out.failure = std::move(why);
        return out;
    };
    for (const net::Endpoint & endpoint : endpoints) {
        out.endpoints.push_back(endpoint.text());
    }
    const auto servers = open_adding_servers(endpoints, sizes.back(), std::chrono::ceil<seconds>(limits.reply));
    if (!servers) {
        return failed(servers.error().text);
    }
    out.transports = servers->group->transports();
    const TimePoint deadline = Clock::now() + limits.total;
    const auto timed = [&](uint64_t bytes, size_t count) -> std::optional<double> {
        const TimePoint begin = Clock::now();
        if (!run(*servers, bytes, count) || Clock::now() > deadline) {
            return std::nullopt;
        }
        return std::chrono::duration<double, std::micro>(Clock::now() - begin).count();
    };
    for (const uint64_t bytes : sizes) {
        std::vector<double> times;
        for (size_t round = 0; round <= rounds; ++round) {
            const auto few = timed(bytes, 1), many = few ? timed(bytes, 1 + batch) : few;
            if (!many) {
                return failed("the servers did not add up a tensor of zeros; their logs have the reason");
            }
            if (round > 0) {  // in the first one the servers may still measure their algorithms
                times.push_back((*many - *few) / batch);
            }
        }
        std::ranges::nth_element(times, times.begin() + rounds / 2);
        out.sums.push_back({bytes, std::max(times[rounds / 2], 0.0)});
    }
    return out;
}

double predicted_speed(size_t servers, double token_us, int layers, double sum_us) {
    const double computing = token_us * (repeated_part + (1 - repeated_part) / static_cast<double>(servers));
    return token_us / (computing + 2 * layers * sum_us);
}

double time_of_sum(const std::vector<SumTime> & sums, uint64_t bytes) {
    const auto above = std::ranges::find_if(sums, [&](const SumTime & sum) { return sum.bytes >= bytes; });
    if (above == sums.end() || above == sums.begin()) {
        return sums.empty() ? 0 : above == sums.end() ? sums.back().us : sums.front().us;
    }
    const SumTime & below = *std::prev(above);
    const double share = static_cast<double>(bytes - below.bytes) / static_cast<double>(above->bytes - below.bytes);
    return below.us + share * (above->us - below.us);
}

}  // namespace caravan::doctor
