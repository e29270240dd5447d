// The measurements that the three programs of this folder share: round trips of several sizes, and one long upload, over any
// line that can send and receive. Standard library only.
//
//   PROGRAM serve PORT                 serves one client after the other; prints "ready"
//   PROGRAM connect HOST PORT MB       measures; prints "SIZE_IN_BYTES MICROSECONDS" lines and "upload MB_PER_SECOND"
//   PROGRAM connect HOST PORT MB upload|download    only one transfer; prints "upload MB_PER_SECOND" or "download ..."
#pragma once

#include <sched.h>

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <string_view>
#include <vector>

namespace measure {

using Clock = std::chrono::steady_clock;
// How long to poll before sleeping, as in Caravan.
inline const std::chrono::microseconds spin{std::getenv("GGML_RPC_POLL_US") ? std::atoi(std::getenv("GGML_RPC_POLL_US"))
                                                                            : 50};

struct Plan {
    uint64_t size, count;  // round trips; count 0: an upload of `size` bytes, answered with 8 bytes
};
inline constexpr uint64_t download = UINT64_MAX;  // a count: a download of `size` bytes, then 8 bytes

struct Step {
    size_t size;
    int count;
};
inline constexpr Step steps[] = {{64, 400}, {6 << 10, 300}, {600 << 10, 30}};
inline constexpr size_t piece = 1 << 20;  // of an upload, for lines that send bytes rather than messages

[[noreturn]] inline void die(const std::string & what) {
    std::fprintf(stderr, "%s\n", what.c_str());
    std::exit(1);
}

// A Line has send(const void *, size_t), receive(void *, size_t), upload(uint64_t size) and take_upload(uint64_t size).
template <class Line>
void measure_transfer(Line & line, uint64_t megabytes, bool is_upload) {
    const Plan plan{megabytes << 20, is_upload ? 0 : download};
    line.send(&plan, sizeof plan);
    const auto begin = Clock::now();
    is_upload ? line.upload(plan.size) : line.take_upload(plan.size);
    uint64_t done = 0;
    line.receive(&done, sizeof done);
    const double seconds = std::chrono::duration<double>(Clock::now() - begin).count();
    std::printf("%s %.1f\n", is_upload ? "upload" : "download", static_cast<double>(plan.size) / 1e6 / seconds);
}

// `only`: "upload" or "download"; else everything but the download.
template <class Line>
void measure(Line & line, uint64_t megabytes, std::string_view only = {}) {
    if (!only.empty()) {
        measure_transfer(line, megabytes, only == "upload");
        return;
    }
    std::vector<char> data(steps[2].size, 'x');
    for (const auto [size, count] : steps) {
        const int warm_up = count / 10;
        const Plan plan{size, static_cast<uint64_t>(count + warm_up)};
        line.send(&plan, sizeof plan);
        std::vector<double> times;
        for (int i = 0; i < count + warm_up; ++i) {
            const auto begin = Clock::now();
            line.send(data.data(), size);
            line.receive(data.data(), size);
            if (i >= warm_up) {
                times.push_back(std::chrono::duration<double, std::micro>(Clock::now() - begin).count());
            }
        }
        std::ranges::nth_element(times, times.begin() + count / 2);
        std::printf("%zu %.1f\n", size, times[static_cast<size_t>(count / 2)]);
    }
    measure_transfer(line, megabytes, true);
}

// Serves one client. Returns the size of the upload.
template <class Line>
uint64_t answer(Line & line) {
    std::vector<char> data(steps[2].size);
    for (;;) {
        Plan plan{};
        line.receive(&plan, sizeof plan);
        if (plan.count == download) {
            line.upload(plan.size);
            line.send(&plan.size, sizeof plan.size);
            return 0;
        }
        for (uint64_t i = 0; i < plan.count; ++i) {
            line.receive(data.data(), plan.size);
            line.send(data.data(), plan.size);
        }
        if (plan.count == 0) {
            line.take_upload(plan.size);
            line.send(&plan.size, sizeof plan.size);
            return plan.size;
        }
    }
}

}  // namespace measure
