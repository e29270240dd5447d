#include "server/confine/confinement.h"

#include <algorithm>
#include <fstream>
#include <initializer_list>
#include <iterator>
#include <string_view>

#include "base/environment.h"
#include "base/formatted.h"
#include "platform/capabilities.h"
#include "platform/hardening.h"
#include "platform/limits.h"
#include "server/confine/driver_caches.h"

namespace caravan::server {
namespace {

namespace fs = std::filesystem;

// Files that a serving worker may read: libraries (RDMA providers), name resolution, hardware topology. Only files of /etc and
// /proc that are not secret.
constexpr const char * system_files[] = {
    "/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store",
    "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/libibverbs.d",
    "/sys/devices", "/sys/class", "/sys/bus",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory",
    "/dev/zero", "/dev/random", "/dev/urandom",
};

// Prefixes of the device names that ggml's back-ends open below /dev: NVIDIA (with Jetson), DRM (AMD, Intel, Vulkan), AMD
// compute, neural processors, WSL, Ascend, Moore Threads, Adreno, Mali, Hexagon, RDMA. No disks, memory or terminals, which
// root could write.
constexpr std::string_view driver_devices[] = {
    "nvidia", "nvhost", "nvmap", "dri", "kfd", "accel", "dxg", "davinci", "devmm", "hisi_hdc", "mtgpu", "kgsl", "mali",
    "fastrpc", "adsprpc", "dma_heap", "udmabuf", "infiniband", "null", "zero", "random", "urandom",
};

std::vector<fs::path> devices_of_drivers() {
    std::vector<fs::path> devices;
    std::error_code error;
    for (fs::directory_iterator at("/dev", error), end; !error && at != end; at.increment(error)) {
        const std::string name = at->path().filename().string();
        std::error_code gone;
        const bool is_theirs = std::ranges::any_of(driver_devices, [&](auto first) { return name.starts_with(first); });
        if (is_theirs && (at->is_directory(gone) || at->is_character_file(gone))) {
            devices.push_back(at->path());
        }
    }
    return devices;
}

// OpenMP then sets CPU affinities by thread id, and a filter cannot tell its threads from those of other processes.
bool binds_threads_to_processors() {
    return is_set(variable::bind) || is_set(variable::places) || is_set(variable::gomp_affinity) ||
           is_set(variable::kmp_affinity);
}

// Raises oom_score_adj, so that the OOM killer prefers a worker to the supervisor, whose exit would end all sessions.
void offer_to_oom_killer() {
    constexpr int half_of_all_memory = 500;
    int now = half_of_all_memory;
    std::ifstream("/proc/self/oom_score_adj") >> now;
    if (now < half_of_all_memory) {
        std::ofstream("/proc/self/oom_score_adj") << half_of_all_memory;
    }
}

std::string describe(const FileRules & rules, const platform::FileLimits & limits) {
    const char * writes = rules.read_anywhere      ? "cache, drivers' devices and caches"
                          : rules.writable.empty() ? "none"
                                                   : "cache only";
    std::string text = formatted("Landlock (reads: {}; writes: {}", rules.read_anywhere ? "anywhere" : "own files only",
                                 writes);
    if (!limits.all_threads) {
        text += "; not for threads that drivers had started before";
    }
    return text + ")";
}

}  // namespace

FileRules store_rules(const cache::Layout & store) {
    return {.readable = {store.root},
            .writable = {store.temporary()},
            .receiving = {store.blobs(), store.index(), store.used()}};
}

FileRules weight_rules(const cache::WeightOptions & options, const cache::Weights & weights) {
    FileRules files;
    if (weights.may_find()) {
        const cache::Layout store = cache::layout_in(options.directory);
        files = options.keep ? store_rules(store) : FileRules{.readable = {store.root}};
    }
    files.readable_files = weights.model_files();
    return files;
}

FileRules indexer_rules(const cache::Layout & store) { return {.writable = {store.digests()}}; }

Confinement worker_confinement(bool cpus_only, FileRules own) {
    Confinement confinement{.files = std::move(own)};
    FileRules & files = confinement.files;
    if (!cpus_only) {
        files.read_anywhere = true;
        files.devices = devices_of_drivers();
        files.caches = driver_caches();
        return confinement;
    }
    std::ranges::copy(system_files, std::back_inserter(files.readable));
    files.readable.emplace_back("/proc/self/exe");  // by its inode: an upgrade may have replaced the file at its path
    files.devices = {"/dev/null", "/dev/infiniband"};
    return confinement;
}

Confined confine(const Confinement & confinement) {
    std::string in_force, missing;
    const auto note = [&](const char * name, const Result<> & done, const char * without = "no ") {
        if (done) {
            in_force += formatted("{}{}", in_force.empty() ? "" : ", ", name);
        } else {
            missing += formatted("; {}{}: {}", without, name, done.error().text);
        }
    };
    offer_to_oom_killer();
    // A core dump would contain the client's data.
    platform::limit_core_dumps(0);
    note("no_new_privs", platform::forbid_new_privileges(), "without ");
    note("no ptrace", platform::forbid_tracing(), "without ");
    note(("capabilities: " + platform::drop_capabilities(confinement.files)).c_str(), {});
    // Before the system-call filter, which might refuse calls that Landlock needs.
    auto files = platform::restrict_files(confinement.files);
    const bool binds_threads = binds_threads_to_processors();
    const auto filter = platform::refuse_syscalls(confinement.network, binds_threads);
    note(binds_threads ? "seccomp (not of sched_setaffinity, as OMP_PROC_BIND or the like is set)" : "seccomp", filter);
    if (files) {
        note(describe(confinement.files, *files).c_str(), {});
    } else {
        note("Landlock", std::unexpected(files.error()));
    }
    return {.text = (in_force.empty() ? "none" : in_force) + missing,
            .is_sealed = filter && files && files->all_threads && files->no_truncation};
}

}  // namespace caravan::server
