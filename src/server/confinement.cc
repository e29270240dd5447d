#include "server/confinement.h"

#include <sys/resource.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <algorithm>
#include <cerrno>
#include <cstdlib>
#include <iterator>

#include "base/formatted.h"

namespace caravan::server {
namespace {

namespace fs = std::filesystem;

// What a worker may still load or look up once it serves: providers of RDMA, names of other servers, the machine's
// shape. Of /etc and /proc only what is not secret.
constexpr const char * system_files[] = {
    "/usr", "/lib", "/lib64", "/opt", "/nix/store", "/gnu/store",
    "/etc/hosts", "/etc/host.conf", "/etc/resolv.conf", "/etc/nsswitch.conf", "/etc/gai.conf", "/etc/services",
    "/etc/ld.so.cache", "/etc/localtime", "/etc/libibverbs.d",
    "/sys/devices", "/sys/class", "/sys/bus",
    "/proc/self", "/proc/cpuinfo", "/proc/meminfo", "/proc/stat", "/proc/sys/vm/overcommit_memory",
    "/dev/zero", "/dev/random", "/dev/urandom",
};

fs::path folder_from(const char * variable, const fs::path & otherwise) {
    const char * value = std::getenv(variable);
    return value != nullptr && *value != '\0' ? fs::path(value) : otherwise;
}

// Compiled shaders and kernels: without them a driver compiles anew for each session.
std::vector<fs::path> driver_caches() {
    const fs::path home = folder_from("HOME", "/nonexistent");
    const fs::path cache = folder_from("XDG_CACHE_HOME", home / ".cache");
    std::vector<fs::path> folders{folder_from("CUDA_CACHE_PATH", home / ".nv")};
    for (const char * name : {"nvidia", "mesa_shader_cache", "mesa_shader_cache_db", "comgr", "neo_compiler_cache"}) {
        folders.push_back(cache / name);
    }
    return folders;
}

std::string describe(const FileRules & rules, const FileLimits & limits) {
    const bool has_drivers = std::ranges::contains(rules.devices, "/dev");
    const char * writes = has_drivers ? "cache, devices, drivers' caches" : rules.writable.empty() ? "none" : "cache only";
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
            .receiving = {store.blobs(), store.index()}};
}

FileRules indexer_rules(const cache::Layout & store) { return {.writable = {store.digests()}}; }

Confinement worker_confinement(bool cpus_only, FileRules own) {
    Confinement confinement{.files = std::move(own)};
    FileRules & files = confinement.files;
    if (!cpus_only) {
        files.read_anywhere = true;
        files.devices = {"/dev"};
        std::ranges::move(driver_caches(), std::back_inserter(files.writable));
        return confinement;
    }
    std::ranges::copy(system_files, std::back_inserter(files.readable));
    files.readable.emplace_back("/proc/self/exe");  // by its inode: an upgrade may have replaced the file of this name
    files.devices = {"/dev/null", "/dev/infiniband"};
    return confinement;
}

Confined confine(const Confinement & confinement) {
    std::string in_force, missing;
    const auto note = [&](const char * name, const Result<> & done) {
        if (done) {
            in_force += formatted("{}{}", in_force.empty() ? "" : ", ", name);
        } else {
            missing += formatted("; no {}: {}", name, done.error().text);
        }
    };
    // A core dump would hold the client's data.
    const rlimit nothing{0, 0};
    ::setrlimit(RLIMIT_CORE, &nothing);
#ifdef __linux__
    const auto set = [](int option, unsigned long value) -> Result<> {
        if (::prctl(option, value, 0ul, 0ul, 0ul) != 0) {
            return fail(Errc::unsupported, "{}", errno_text(errno));
        }
        return {};
    };
    note("no_new_privs", set(PR_SET_NO_NEW_PRIVS, 1));
    note("no ptrace", set(PR_SET_DUMPABLE, 0));
#endif
    // The files first: a filter may one day refuse what that needs.
    auto files = restrict_files(confinement.files);
    const auto filter = refuse_syscalls(confinement.network);
    note("seccomp", filter);
    if (files) {
        note(describe(confinement.files, *files).c_str(), {});
    } else {
        note("Landlock", std::unexpected(files.error()));
    }
    return {.text = (in_force.empty() ? "none" : in_force) + missing,
            .is_sealed = filter && files && files->all_threads && files->no_truncation};
}

}  // namespace caravan::server
