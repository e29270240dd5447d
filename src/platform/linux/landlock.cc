// The kernel interface is declared here (source: kernel documentation, userspace-api/landlock), because the headers of older
// distributions lack features of the kernels that run with them.
#include "platform/landlock.h"

#include <fcntl.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <iterator>

#include "platform/posix/open_without_links.h"
#include "platform/unique_fd.h"

namespace caravan::platform {
namespace {

// The same numbers on all architectures.
constexpr long create_ruleset = 444, add_rule = 445, restrict_self = 446;
constexpr uint32_t ask_version = 1;     // flag of create_ruleset
constexpr int rule_path_beneath = 1;    // type of add_rule
constexpr uint32_t every_thread = 1 << 3;  // flag of restrict_self

struct Ruleset {
    uint64_t fs, net, scoped;
};
struct [[gnu::packed]] PathRule {
    uint64_t allowed;
    int32_t parent;
};

constexpr uint64_t bit(int number) { return uint64_t{1} << number; }
constexpr uint64_t execute = bit(0), write_file = bit(1), read_file = bit(2), read_dir = bit(3), remove_file = bit(5),
                   make_file = bit(8), refer = bit(13), truncate = bit(14), control_device = bit(15),
                   connect_unix = bit(16);
constexpr uint64_t all_of_version_2 = bit(14) - 1;
constexpr uint64_t on_a_file = execute | write_file | read_file | truncate | control_device;

constexpr uint64_t reading = read_file | read_dir;
constexpr uint64_t receiving = reading | remove_file | make_file | refer;
constexpr uint64_t writing = receiving | write_file | truncate;
constexpr uint64_t using_devices = reading | write_file | truncate | control_device;

constexpr uint64_t bind_tcp = bit(0);                               // of Ruleset::net
constexpr uint64_t abstract_unix_sockets = bit(0), signals = bit(1);  // of Ruleset::scoped

// All accesses that a kernel with this ABI version can restrict.
Ruleset restricted_by(int version) {
    Ruleset all{all_of_version_2, 0, 0};
    all.fs |= version >= 3 ? truncate : 0;
    all.fs |= version >= 5 ? control_device : 0;
    all.fs |= version >= 9 ? connect_unix : 0;
    all.net = version >= 4 ? bind_tcp : 0;
    all.scoped = version >= 6 ? abstract_unix_sockets | signals : 0;
    return all;
}

std::string why_not(int error) {
    switch (error) {
        case ENOSYS: return "this kernel has none";
        case EOPNOTSUPP: return "it is switched off in this kernel (lsm= at its start)";
        case EPERM: return "not permitted here (by a container's rules?)";
        default: return errno_text(error);
    }
}

// A path that cannot be opened now, for any reason, gets no rule and stays inaccessible.
Result<> permit(int ruleset, uint64_t handled, const std::filesystem::path & path, uint64_t access, bool follow_links) {
    const UniqueFd place = follow_links ? UniqueFd(::open(path.c_str(), O_PATH | O_CLOEXEC))
                                        : UniqueFd(open_without_links(path.c_str(), O_PATH));
    if (!place) {
        return {};
    }
    struct stat status;
    if (::fstat(place.get(), &status) != 0 || !S_ISDIR(status.st_mode)) {
        access &= on_a_file;
    }
    const PathRule rule{access & handled, place.get()};
    if (::syscall(add_rule, ruleset, rule_path_beneath, &rule, 0) != 0) {
        return fail(Errc::io, "no rule for {}: {}", path.string(), errno_text(errno));
    }
    return {};
}

}  // namespace

bool has_more_threads() {
    std::error_code error;
    const std::filesystem::directory_iterator threads("/proc/self/task", error);
    return error || std::distance(begin(threads), end(threads)) > 1;
}

Result<FileLimits> restrict_files(const FileRules & rules) {
    const auto version = static_cast<int>(::syscall(create_ruleset, nullptr, 0, ask_version));
    if (version < 0) {
        return fail(Errc::unsupported, "{}", why_not(errno));
    }
    if (version < 2) {
        return fail(Errc::unsupported, "this kernel's is too old: it came of age with Linux 5.19");
    }
    // A kernel with a smaller structure accepts this one if the additional fields are zero.
    const Ruleset handled = restricted_by(version);
    const UniqueFd ruleset(static_cast<int>(::syscall(create_ruleset, &handled, sizeof handled, 0)));
    if (!ruleset) {
        return fail(Errc::unsupported, "{}", why_not(errno));
    }
    Result<> allowed;
    const auto allow_all = [&](const std::vector<std::filesystem::path> & paths, uint64_t access,
                               bool follow_links = true) {
        for (const std::filesystem::path & path : paths) {
            if (allowed) {
                allowed = permit(ruleset.get(), handled.fs, path, access, follow_links);
            }
        }
    };
    if (rules.read_anywhere) {
        allow_all({"/"}, reading);
    }
    allow_all(rules.readable, reading);
    allow_all(rules.readable_files, reading, false);
    allow_all(rules.receiving, receiving);
    allow_all(rules.writable, writing);
    allow_all(rules.caches, writing);
    allow_all(rules.devices, using_devices);
    if (!allowed) {
        return std::unexpected(allowed.error());
    }
    const bool can_sync = version >= 8;
    const bool all_threads = can_sync || !has_more_threads();
    if (::syscall(restrict_self, ruleset.get(), can_sync ? every_thread : 0) != 0) {
        return fail(Errc::unsupported, "{}", why_not(errno));
    }
    return FileLimits{all_threads, handled.net != 0, (handled.fs & truncate) != 0};
}

}  // namespace caravan::platform
