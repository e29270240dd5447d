// CPU time of the stages that a byte of a long transfer passes through, in one thread, on memory that is not in the cache:
// copying into and out of slots, checking records, hashing, and, with an RDMA device, registering the caller's memory.
//
//   stage-costs                  prints "STAGE NANOSECONDS_PER_KIB" lines
//   stage-costs registration     the same for registering and deregistering pieces of several sizes, named by their bytes, and
//                                for copying into slots
#include <infiniband/verbs.h>
#include <sys/mman.h>

#include <array>
#include <ctime>
#include <functional>
#include <string_view>

#include "cache/digest.h"
#include "measure.h"
#include "tunables/rdma.h"
#include "wire/record_check.h"

using namespace caravan;

namespace {

constexpr size_t source_size = 128 << 20;  // several times the last level of cache
constexpr size_t slot_size = tunable::ring_slot_size, slots = tunable::ring_depth;
constexpr int repetitions = 5;

// A mapping of its own, in pages of 4 KiB like a mapped model file; resident.
std::span<std::byte> memory(size_t size) {
    void * place = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (place == MAP_FAILED) {
        measure::die("out of memory");
    }
    ::madvise(place, size, MADV_NOHUGEPAGE);
    std::memset(place, 'x', size);
    return {static_cast<std::byte *>(place), size};
}

double cpu_seconds() {
    timespec now{};
    ::clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return static_cast<double>(now.tv_sec) + static_cast<double>(now.tv_nsec) / 1e9;
}

// Nanoseconds of this thread for each KiB of `size` bytes, the median of some repetitions.
double cost(size_t size, const std::function<void()> & stage) {
    std::array<double, repetitions> times{};
    stage();
    for (double & time : times) {
        const double begin = cpu_seconds();
        stage();
        time = cpu_seconds() - begin;
    }
    std::ranges::sort(times);
    return times[repetitions / 2] * 1e9 / (static_cast<double>(size) / 1024);
}

void for_each_piece(std::span<std::byte> bytes, size_t size, const std::function<void(std::span<std::byte>, size_t)> & use) {
    for (size_t i = 0; i * size < bytes.size(); ++i) {
        use(bytes.subspan(i * size, size), i);
    }
}

void copy_into_slots(std::span<std::byte> source, std::span<std::byte> ring) {
    for_each_piece(source, slot_size, [&](std::span<std::byte> piece, size_t i) {
        std::ranges::copy(piece, ring.begin() + static_cast<ptrdiff_t>(i % slots * slot_size));
    });
}

void print_stages() {
    const auto source = memory(source_size), ring = memory(slot_size * slots);
    uint64_t sum = 0;
    const auto print = [](const char * name, double nanoseconds) { std::printf("%s %.1f\n", name, nanoseconds); };
    print("copy_in", cost(source_size, [&] { copy_into_slots(source, ring); }));
    print("copy_out", cost(source_size, [&] {
              for_each_piece(source, slot_size, [&](std::span<std::byte> piece, size_t i) {
                  std::ranges::copy(ring.subspan(i % slots * slot_size, slot_size), piece.begin());
              });
          }));
    print("check", cost(source_size, [&] {
              for_each_piece(source, wire::max_checked_record, [&](std::span<std::byte> piece, size_t i) {
                  const std::array data{ConstBytes(piece)};
                  sum += wire::record_check(i, {static_cast<uint32_t>(piece.size()), 0, 0}, data);
              });
          }));
    print("hash", cost(source_size, [&] {
              cache::Blake3 hash;
              for_each_piece(source, cache::chunk_size, [&](std::span<std::byte> piece, size_t) { hash.update(piece); });
              sum += static_cast<uint64_t>(hash.bytes()[0]);
          }));
    if (sum == 0) {
        std::puts("");  // the results are used
    }
}

void print_registration() {
    int count = 0;
    ibv_device ** devices = ibv_get_device_list(&count);
    ibv_context * context = devices != nullptr && count > 0 ? ibv_open_device(devices[0]) : nullptr;
    ibv_pd * pd = context != nullptr ? ibv_alloc_pd(context) : nullptr;
    if (pd == nullptr) {
        measure::die("no RDMA device");
    }
    const auto source = memory(source_size), ring = memory(slot_size * slots);
    std::printf("copy %.1f\n", cost(source_size, [&] { copy_into_slots(source, ring); }));
    for (size_t size = slot_size; size <= source_size / 2; size *= 4) {
        const double time = cost(source_size, [&] {
            for_each_piece(source, size, [&](std::span<std::byte> piece, size_t) {
                ibv_mr * region = ibv_reg_mr(pd, piece.data(), piece.size(), 0);
                if (region == nullptr || ibv_dereg_mr(region) != 0) {
                    measure::die("registering memory failed");
                }
            });
        });
        std::printf("%zu %.1f\n", size, time);
    }
}

}  // namespace

int main(int argc, char ** argv) {
    if (argc > 1 && std::string_view(argv[1]) == "registration") {
        print_registration();
    } else {
        print_stages();
    }
    return 0;
}
