// What a confined process can still do. Each question is asked in a child process, which is confined first.
#include "server/confine/confinement.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gtest/gtest.h>
#include <linux/fs.h>
#include <linux/sockios.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <sched.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cerrno>
#include <fstream>
#include <thread>

#include "base/formatted.h"
#include "cache/digest_file.h"
#include "cache/weights.h"
#include "platform/syscall_filter.h"
#include "platform/unique_fd.h"
#include "support/cpu_device.h"
#include "support/temporary_folder.h"

namespace caravan::server {
namespace {

using test::ask_in_child;
using test::Outcome;

// The version of the kernel's Landlock, -1 without.
int landlock_version() { return static_cast<int>(::syscall(444, nullptr, 0, 1)); }

bool has_filters() {
#if defined(__x86_64__) || defined(__aarch64__)
    return ::prctl(PR_GET_SECCOMP, 0, 0, 0, 0) >= 0;
#else
    return false;
#endif
}

// A thread that was there before, and that Landlock may not reach.
#ifdef __SANITIZE_THREAD__
constexpr bool has_thread_of_its_own = true;
#else
constexpr bool has_thread_of_its_own = false;
#endif

bool refused(long result) { return result == -1 && errno == EPERM; }
bool denied(int fd) { return fd == -1 && errno == EACCES; }

struct Listener {
    Listener() {
        ::listen(fd.get(), 4);
        socklen_t length = sizeof address;
        ::getsockname(fd.get(), reinterpret_cast<sockaddr *>(&address), &length);
    }
    UniqueFd fd{::socket(AF_INET, SOCK_STREAM, 0)};
    sockaddr_in address{};
};

class ConfinementTest : public testing::Test {
protected:
    ConfinementTest() {
        std::filesystem::create_directory(own());
        std::filesystem::create_directory(models());
        std::ofstream(models() / "model") << "weights";
        std::ofstream(secret()) << "secret";
    }
    std::filesystem::path own() const { return folder_ / "own"; }
    std::filesystem::path models() const { return folder_ / "models"; }
    std::filesystem::path secret() const { return folder_ / "secret"; }

    Outcome confined(const std::function<bool()> & question) {
        test::cpu_devices();
        return ask_in_child([&] {
            confine(worker_confinement(true, {.readable = {models()}, .writable = {own()}}));
            return question();
        });
    }

    test::TemporaryFolder folder_;
};

#define NEEDS_LANDLOCK(version)                                                                          \
    if (landlock_version() < (version)) {                                                                \
        GTEST_SKIP() << "this kernel's Landlock is version " << landlock_version() << ", not " << (version); \
    }

#define NEEDS_FILTERS                                             \
    if (!has_filters()) {                                         \
        GTEST_SKIP() << "this kernel or processor has no filters"; \
    }

TEST_F(ConfinementTest, SaysWhatIsInForceAndWhatIsMissing) {
    EXPECT_EQ(ask_in_child([&] {
                  const std::string said = confine(worker_confinement(true, {.writable = {own()}})).text;
                  return said.starts_with("no_new_privs, no ptrace") &&
                         said.contains(has_filters() ? ", seccomp" : "; no seccomp: ") &&
                         said.contains(landlock_version() >= 2 ? "Landlock (reads: own files only; writes: cache only"
                                                               : "; no Landlock: ");
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, TheKernelAgrees) {
    EXPECT_EQ(confined([] {
                  rlimit core{1, 1};
                  ::getrlimit(RLIMIT_CORE, &core);
                  return ::prctl(PR_GET_NO_NEW_PRIVS, 0, 0, 0, 0) == 1 &&
                         (!has_filters() || ::prctl(PR_GET_SECCOMP, 0, 0, 0, 0) == 2) &&
                         ::prctl(PR_GET_DUMPABLE, 0, 0, 0, 0) == 0 && core.rlim_max == 0;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, TheKernelEndsItBeforeOthersAtLeastAsSoonAsItWas) {
    const auto score = [](int now) {
        return ask_in_child([&] {
            std::ofstream("/proc/self/oom_score_adj") << now;
            confine({.files = {.read_anywhere = true}});
            int after = 0;
            std::ifstream("/proc/self/oom_score_adj") >> after;
            return after == std::max(now, 500);
        });
    };
    EXPECT_EQ(score(300), Outcome::yes);
    EXPECT_EQ(score(700), Outcome::yes);
}

TEST_F(ConfinementTest, ThreadsAreBoundWhereTheUserAsksOpenMPFor) {
    NEEDS_FILTERS
    for (const char * variable : {"OMP_PROC_BIND", "OMP_PLACES", "GOMP_CPU_AFFINITY", "KMP_AFFINITY"}) {
        EXPECT_EQ(ask_in_child([&] {
                      ::setenv(variable, "true", 1);
                      return confine(worker_confinement(true, {})).text.contains("seccomp (not of sched_setaffinity");
                  }),
                  Outcome::yes)
            << variable;
    }
}

TEST_F(ConfinementTest, FilesOutsideAreNotWritten) {
    NEEDS_LANDLOCK(3);
    EXPECT_EQ(confined([&] {
                  return denied(::open((folder_ / "new").c_str(), O_WRONLY | O_CREAT, 0600)) &&
                         denied(::open(secret().c_str(), O_WRONLY)) &&
                         denied(::open((models() / "model").c_str(), O_RDWR)) && ::unlink(secret().c_str()) == -1 &&
                         ::truncate(secret().c_str(), 0) == -1 &&
                         ::rename((models() / "model").c_str(), (own() / "model").c_str()) == -1 &&
                         ::mkdir((folder_ / "folder").c_str(), 0700) == -1 &&
                         ::symlink("/", (own() / "link").c_str()) == -1;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, OnlyItsOwnFilesAreRead) {
    NEEDS_LANDLOCK(2);
    EXPECT_EQ(confined([&] {
                  return denied(::open(secret().c_str(), O_RDONLY)) && denied(::open("/etc/passwd", O_RDONLY)) &&
                         denied(::open(folder_.path().c_str(), O_RDONLY | O_DIRECTORY)) &&
                         ::open((models() / "model").c_str(), O_RDONLY) >= 0 &&
                         ::open("/proc/self/maps", O_RDONLY) >= 0 && ::open("/usr/lib", O_RDONLY) >= 0 &&
                         ::open("/dev/null", O_RDWR) >= 0;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, WithADriverReadingIsFreeAndWritingIsNot) {
    NEEDS_LANDLOCK(2);
    EXPECT_EQ(ask_in_child([&] {
                  const std::string said = confine(worker_confinement(false, {.writable = {own()}})).text;
                  return said.contains("reads: anywhere; writes: cache, drivers' devices") &&
                         ::open(secret().c_str(), O_RDONLY) >= 0 && denied(::open(secret().c_str(), O_WRONLY)) &&
                         ::open("/dev/null", O_WRONLY) >= 0 && denied(::open("/dev/full", O_WRONLY)) &&
                         ::open((own() / "new").c_str(), O_WRONLY | O_CREAT, 0600) >= 0 && refused(::fork());
              }),
              Outcome::yes);
}

// Sessions that could not write there compiled every kernel anew (docs/gpu.md).
TEST_F(ConfinementTest, DriversWriteTheirCachesOfCompiledKernels) {
    NEEDS_LANDLOCK(2);
    EXPECT_EQ(ask_in_child([&] {
                  ::setenv("CUDA_CACHE_PATH", own().c_str(), 1);
                  confine(worker_confinement(false, {}));
                  return ::open((own() / "index").c_str(), O_RDWR | O_CREAT, 0600) >= 0 &&
                         denied(::open(secret().c_str(), O_WRONLY));
              }),
              Outcome::yes);
    EXPECT_EQ(ask_in_child([&] {
                  ::setenv("CUDA_CACHE_PATH", own().c_str(), 1);
                  confine(worker_confinement(true, {}));
                  return denied(::open((own() / "index").c_str(), O_RDWR | O_CREAT, 0600));
              }),
              Outcome::yes)
        << "a CPU has no driver";
}

TEST_F(ConfinementTest, TheStoreWorks) {
    EXPECT_EQ(ask_in_child([&] {
                  cache::Weights before(cache::WeightOptions{.directory = own(), .keep = true});
                  confine(worker_confinement(true, store_rules(cache::layout_in(own()))));
                  const auto data = test::noise(2 << 20);
                  auto writer = before.begin(data.size(), cache::Keys::digest_and_fnv);
                  if (!writer) {
                      return false;
                  }
                  writer->append(data);
                  writer->commit();
                  const auto fnv = wire::fnv1a(data);
                  auto reader = before.find(fnv, data.size());
                  cache::Weights again(cache::WeightOptions{.directory = own(), .keep = true});
                  return reader.has_value() && again.find(fnv, data.size()).has_value();
              }),
              Outcome::yes);
}

// Another session may have mapped it.
TEST_F(ConfinementTest, WhatIsInTheStoreIsNotWrittenAnyMore) {
    NEEDS_LANDLOCK(3);
    NEEDS_FILTERS
    const cache::Weights weights(cache::WeightOptions{.directory = own(), .keep = true});
    const cache::Layout store = cache::layout_in(own());
    EXPECT_EQ(ask_in_child([&] {
                  const bool is_sealed = confine(worker_confinement(true, store_rules(store))).is_sealed;
                  if (!is_sealed && !has_thread_of_its_own) {
                      return false;
                  }
                  const std::string made = store.temporary() / "file", kept = store.blobs() / "file",
                                    other = store.temporary() / "other";
                  const int fd = ::open(made.c_str(), O_WRONLY | O_CREAT, 0600);
                  const int reader = ::open(made.c_str(), O_RDONLY);
                  const bool was_linked = ::link(made.c_str(), other.c_str()) == 0;
                  if (fd < 0 || was_linked || ::rename(made.c_str(), kept.c_str()) != 0) {
                      return false;
                  }
                  const std::string again = formatted("/proc/self/fd/{}", reader);
                  const bool is_denied = denied(::open(kept.c_str(), O_WRONLY)) && denied(::open(again.c_str(), O_WRONLY)) &&
                                         denied(::truncate(kept.c_str(), 0)) &&
                                         ::rename(kept.c_str(), other.c_str()) == -1 &&
                         ::open(other.c_str(), O_WRONLY | O_CREAT, 0600) >= 0 &&
                         ::renameat2(AT_FDCWD, kept.c_str(), AT_FDCWD, other.c_str(), RENAME_EXCHANGE) == -1 &&
                         ::mkdir((store.temporary() / "folder").c_str(), 0700) == -1 &&
                                         ::rename(store.blobs().c_str(), other.c_str()) == -1 &&
                                         ::open((store.root / "new").c_str(), O_WRONLY | O_CREAT, 0600) == -1;
                  return is_denied && ::unlink(kept.c_str()) == 0 && denied(::open(again.c_str(), O_WRONLY));
              }),
              Outcome::yes);
}

// What the next worker opens, and what the indexer writes, is not for a worker to choose.
TEST_F(ConfinementTest, DigestsOfModelFilesAreNotWrittenByWorkers) {
    NEEDS_LANDLOCK(3);
    const cache::Weights weights(cache::WeightOptions{.directory = own(), .keep = true, .model_dirs = {models()}});
    const cache::Layout store = cache::layout_in(own());
    const std::filesystem::path digests = store.digests() / "0123456789abcdef";
    std::ofstream(digests) << "digests";
    EXPECT_EQ(ask_in_child([&] {
                  confine(worker_confinement(true, store_rules(store)));
                  const std::string made = store.temporary() / "file", other = store.digests() / "other";
                  if (::open(made.c_str(), O_WRONLY | O_CREAT, 0600) < 0 || ::open(digests.c_str(), O_RDONLY) < 0) {
                      return false;
                  }
                  return ::rename(made.c_str(), digests.c_str()) == -1 && ::rename(made.c_str(), other.c_str()) == -1 &&
                         ::unlink(digests.c_str()) == -1 && denied(::open(digests.c_str(), O_WRONLY)) &&
                         denied(::open(other.c_str(), O_WRONLY | O_CREAT, 0600)) &&
                         ::rename(store.digests().c_str(), made.c_str()) == -1;
              }),
              Outcome::yes);
    EXPECT_EQ(ask_in_child([&] {
                  confine({.network = Network::none, .files = indexer_rules(store)});
                  return cache::save_digests(store, {models() / "a", {}, {}}).has_value() &&
                         denied(::open((store.temporary() / "new").c_str(), O_WRONLY | O_CREAT, 0600)) &&
                         denied(::open(secret().c_str(), O_RDONLY));
              }),
              Outcome::yes);
}

// A folder of models may hold more: a home directory, for one.
TEST_F(ConfinementTest, OfModelFoldersOnlyModelsAreRead) {
    NEEDS_LANDLOCK(2);
    std::filesystem::create_directory(models() / "below");
    for (const auto & model : {models() / "one.gguf", models() / "below" / "two.gguf"}) {
        std::ofstream(model) << "weights";
    }
    std::filesystem::create_symlink(secret(), models() / "three.gguf");
    const cache::WeightOptions options{.directory = own(), .keep = true, .model_dirs = {models()}};
    const cache::Weights weights(options);
    EXPECT_EQ(ask_in_child([&] {
                  confine(worker_confinement(true, weight_rules(options, weights)));
                  const auto can_read = [](const std::filesystem::path & path) {
                      return ::open(path.c_str(), O_RDONLY) >= 0;
                  };
                  return can_read(models() / "one.gguf") && can_read(models() / "below" / "two.gguf") &&
                         can_read(secret()) && denied(::open((models() / "model").c_str(), O_RDONLY)) &&
                         denied(::open(models().c_str(), O_RDONLY | O_DIRECTORY));
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, NothingIsExecuted) {
    NEEDS_FILTERS
    int status = 0;
    const pid_t child = ::fork();
    if (child == 0) {
        ::alarm(10);
        confine(worker_confinement(true, {}));
        ::execl("/bin/true", "true", nullptr);
        ::_exit(0);
    }
    ::waitpid(child, &status, 0);
    EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGSYS) << status;
}

TEST_F(ConfinementTest, NoProcessIsStartedOrTouched) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([] {
                  const pid_t forked = ::fork();
                  if (forked == 0) {
                      ::_exit(0);
                  }
                  return refused(forked) && refused(::kill(::getppid(), 0)) && refused(::kill(0, SIGTERM)) &&
                         refused(::kill(-1, 0)) && refused(::syscall(SYS_tgkill, ::getppid(), ::getppid(), SIGTERM)) &&
                         refused(::syscall(SYS_ptrace, 16, ::getppid(), 0, 0)) &&
                         refused(::syscall(SYS_process_vm_readv, ::getppid(), nullptr, 0, nullptr, 0, 0)) &&
                         refused(::syscall(SYS_prlimit64, ::getppid(), RLIMIT_NOFILE, nullptr, nullptr)) &&
                         ::kill(::getpid(), 0) == 0;
              }),
              Outcome::yes);
}

// The server would sleep when it receives a message with such a socket.
TEST_F(ConfinementTest, NoSocketLingers) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([] {
                  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
                  const linger lingers{.l_onoff = 1, .l_linger = 5};
                  const int on = 1;
                  return refused(::setsockopt(socket.get(), SOL_SOCKET, SO_LINGER, &lingers, sizeof lingers)) &&
                         ::setsockopt(socket.get(), SOL_SOCKET, SO_KEEPALIVE, &on, sizeof on) == 0 &&
                         ::setsockopt(socket.get(), IPPROTO_TCP, TCP_NODELAY, &on, sizeof on) == 0;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, OtherProcessesAreNotSlowedDownOrSignalled) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([] {
                  const pid_t other = ::getppid();
                  cpu_set_t processors;
                  if (::sched_getaffinity(0, sizeof processors, &processors) != 0) {
                      return false;
                  }
                  const sched_param parameters{};
                  int ends[2];
                  if (::socketpair(AF_UNIX, SOCK_STREAM, 0, ends) != 0) {
                      return false;
                  }
                  const f_owner_ex owner{F_OWNER_PID, other};
                  pid_t id = other;
                  return refused(::setpriority(PRIO_PROCESS, static_cast<id_t>(other), 19)) &&
                         refused(::setpriority(PRIO_PGRP, 0, 19)) && refused(::setpriority(PRIO_USER, 0, 19)) &&
                         refused(::sched_setaffinity(other, sizeof processors, &processors)) &&
                         refused(::sched_setscheduler(other, SCHED_IDLE, &parameters)) &&
                         refused(::syscall(SYS_ioprio_set, 1, other, 3 << 13)) &&
                         refused(::syscall(SYS_ioprio_set, 2, 0, 3 << 13)) &&
                         refused(::syscall(SYS_move_pages, other, 0, nullptr, nullptr, nullptr, 0)) &&
                         refused(::fcntl(ends[0], F_SETOWN, other)) && refused(::fcntl(ends[0], F_SETOWN_EX, &owner)) &&
                         refused(::fcntl(ends[0], F_SETSIG, SIGKILL)) && refused(::ioctl(ends[0], FIOSETOWN, &id)) &&
                         refused(::ioctl(ends[0], SIOCSPGRP, &id)) && ::fcntl(ends[0], F_SETOWN, ::getpid()) == 0;
              }),
              Outcome::yes);
}

// The kernel refuses much of that by itself to a process with fewer capabilities than the other one, and Landlock refuses
// signals. The filter must hold among workers of a server, which are alike, and on older kernels: here it is alone.
TEST_F(ConfinementTest, TheFilterAloneKeepsOtherProcessesUntouched) {
    NEEDS_FILTERS
    const auto outcome = [](auto question) {
        return ask_in_child([&] {
            ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
            return platform::refuse_syscalls(Network::connect).has_value() && question(::getppid());
        });
    };
    EXPECT_EQ(outcome([](pid_t other) {
                  siginfo_t nothing{};
                  nothing.si_code = SI_QUEUE;
                  return refused(::kill(other, 0)) && refused(::syscall(SYS_tgkill, other, other, 0)) &&
                         refused(::syscall(SYS_tkill, other, 0)) &&
                         refused(::syscall(SYS_rt_sigqueueinfo, other, 0, &nothing)) &&
                         refused(::syscall(SYS_rt_tgsigqueueinfo, other, other, 0, &nothing)) &&
                         ::syscall(SYS_rt_sigqueueinfo, ::getpid(), 0, &nothing) == 0;
              }),
              Outcome::yes)
        << "signals";
    EXPECT_EQ(outcome([](pid_t other) {
                  const sched_param parameters{};
                  std::array<uint32_t, 14> attributes{sizeof attributes};
                  return refused(::sched_setscheduler(other, SCHED_OTHER, &parameters)) &&
                         refused(::sched_setparam(other, &parameters)) &&
                         refused(::syscall(SYS_sched_setattr, other, attributes.data(), 0)) &&
                         ::sched_setparam(0, &parameters) == 0;
              }),
              Outcome::yes)
        << "scheduling";
    EXPECT_EQ(outcome([](pid_t other) {
                  cpu_set_t processors;
                  return ::sched_getaffinity(0, sizeof processors, &processors) == 0 &&
                         refused(::sched_setaffinity(other, sizeof processors, &processors)) &&
                         ::sched_setaffinity(0, sizeof processors, &processors) == 0;
              }),
              Outcome::yes)
        << "processors";
    EXPECT_EQ(ask_in_child([] {
                  cpu_set_t processors;
                  ::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0);
                  return platform::refuse_syscalls(Network::connect, true).has_value() &&
                         ::sched_getaffinity(0, sizeof processors, &processors) == 0 &&
                         ::sched_setaffinity(::getppid(), sizeof processors, &processors) == 0;
              }),
              Outcome::yes)
        << "processors, where OpenMP sets them by the ids of its threads";
    EXPECT_EQ(outcome([](pid_t other) {
                  const auto id = static_cast<id_t>(other);
                  return refused(::setpriority(PRIO_PROCESS, id, ::getpriority(PRIO_PROCESS, id))) &&
                         refused(::setpriority(PRIO_PGRP, 0, ::getpriority(PRIO_PGRP, 0))) &&
                         refused(::syscall(SYS_ioprio_set, 1, other, ::syscall(SYS_ioprio_get, 1, other))) &&
                         refused(::syscall(SYS_ioprio_set, 2, 0, ::syscall(SYS_ioprio_get, 2, 0)));
              }),
              Outcome::yes)
        << "priorities";
    EXPECT_EQ(outcome([](pid_t other) {
                  unsigned long nodes = 1;
                  return refused(::syscall(SYS_move_pages, other, 0, nullptr, nullptr, nullptr, 0)) &&
                         refused(::syscall(SYS_migrate_pages, other, 2, &nodes, &nodes)) &&
                         refused(::syscall(SYS_prlimit64, other, RLIMIT_NOFILE, nullptr, nullptr)) &&
                         refused(::syscall(SYS_kcmp, other, other, 0, 0, 0));
              }),
              Outcome::yes)
        << "memory, limits and descriptors";
    EXPECT_EQ(outcome([&](pid_t) {
                  const timespec now[2]{{0, UTIME_NOW}, {0, UTIME_NOW}};
                  const UniqueFd open(::open((models() / "model").c_str(), O_RDWR));
                  char key = 'x';
                  std::array<uint32_t, 2> header{0x20080522, 0};
                  std::array<uint32_t, 6> sets{};
                  return refused(::futimens(open.get(), now)) && refused(::fchmod(open.get(), 0600)) &&
                         refused(::fchmodat(AT_FDCWD, (models() / "model").c_str(), 0600, 0)) &&
                         refused(::ioctl(open.get(), TIOCLINUX, &key)) && refused(::futimens(open.get(), nullptr)) &&
                         refused(::syscall(SYS_capset, header.data(), sets.data()));
              }),
              Outcome::yes)
        << "files, terminals and capabilities";
}

TEST_F(ConfinementTest, ThreadsSetTheirOwnProcessorsAndPriorities) {
    EXPECT_EQ(confined([] {
                  const auto done = [] {
                      cpu_set_t processors;
                      return ::sched_getaffinity(0, sizeof processors, &processors) == 0 &&
                             ::sched_setaffinity(0, sizeof processors, &processors) == 0 &&
                             ::setpriority(PRIO_PROCESS, 0, 19) == 0 && ::syscall(SYS_ioprio_set, 1, 0, 3 << 13) == 0;
                  };
                  bool in_thread = false;
                  std::thread([&] { in_thread = done(); }).join();
                  return in_thread && done();
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, ProcessesOfTheSameUserShareNothingWithIt) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([&] {
                  int ends[2];
                  const UniqueFd open(::open((models() / "model").c_str(), O_RDONLY));
                  return refused(::syscall(SYS_shmget, 1234, 4096, 01600)) && refused(::syscall(SYS_semget, 1, 1, 01600)) &&
                         refused(::syscall(SYS_msgget, 1, 01600)) &&
                         refused(::syscall(SYS_mq_open, "queue", O_RDWR | O_CREAT, 0600, nullptr)) &&
                         refused(::socketpair(AF_UNIX, SOCK_DGRAM, 0, ends)) &&
                         refused(::socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends)) &&
                         refused(::utimensat(AT_FDCWD, secret().c_str(), nullptr, 0)) &&
                         refused(::futimens(open.get(), nullptr));
              }),
              Outcome::yes);
}

// Files that it can read, such as models, may be this user's; Landlock does not look at these calls.
TEST_F(ConfinementTest, AttributesOfFilesAreNotChanged) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([&] {
                  const std::string model = models() / "model";
                  const UniqueFd open(::open(model.c_str(), O_RDONLY));
                  int flags = 0;
                  const std::array<uint64_t, 4> extended{};
                  for (const long call : {443 /* quotactl_fd */, 452 /* fchmodat2 */, 463 /* setxattrat */,
                                          466 /* removexattrat */, 467 /* open_tree_attr */, 469 /* file_setattr */}) {
                      if (!refused(::syscall(call, AT_FDCWD, model.c_str(), 0, nullptr, nullptr, 0))) {
                          return false;
                      }
                  }
                  return refused(::ioctl(open.get(), FS_IOC_SETFLAGS, &flags)) &&
                         refused(::ioctl(open.get(), FS_IOC_FSSETXATTR, extended.data()));
              }),
              Outcome::yes);
}

uint64_t capabilities() {
    std::ifstream status("/proc/self/status");
    for (std::string line; std::getline(status, line);) {
        if (line.starts_with("CapPrm:")) {
            return std::stoull(line.substr(8), nullptr, 16);
        }
    }
    return UINT64_MAX;
}

TEST_F(ConfinementTest, NoCapabilityIsLeft) {
    EXPECT_EQ(ask_in_child([&] {
                  FileRules rules{.readable_files = {models() / "model"}, .writable = {own()}};
                  const std::string said = confine(worker_confinement(true, rules)).text;
                  return capabilities() == 0 && said.contains(", capabilities: none") &&
                         ::open((models() / "model").c_str(), O_RDONLY) >= 0;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, ACapabilityThatAnotherUsersFilesNeedIsKept) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root gives files away";
    }
    for (const auto & path : {models(), models() / "model"}) {
        ASSERT_EQ(::chown(path.c_str(), 12345, 12345), 0);
        ASSERT_EQ(::chmod(path.c_str(), 0700), 0);
    }
    EXPECT_EQ(ask_in_child([&] {
                  FileRules rules{.readable_files = {models() / "model"}, .writable = {own()}};
                  const std::string said = confine(worker_confinement(true, rules)).text;
                  return capabilities() == uint64_t{1} << 2 && said.contains("capabilities: DAC_READ_SEARCH") &&
                         ::open((models() / "model").c_str(), O_RDONLY) >= 0;
              }),
              Outcome::yes);
}

// A cache of another user, which the options name.
TEST_F(ConfinementTest, TheCapabilityToWriteIsKeptForACacheOfAnotherUser) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root gives files away";
    }
    ASSERT_EQ(::chown(own().c_str(), 12345, 12345), 0);
    ASSERT_EQ(::chmod(own().c_str(), 0700), 0);
    EXPECT_EQ(ask_in_child([&] {
                  const std::string said = confine(worker_confinement(true, {.writable = {own()}})).text;
                  return capabilities() == uint64_t{1} << 1 && said.contains("capabilities: DAC_OVERRIDE") &&
                         ::open((own() / "new").c_str(), O_WRONLY | O_CREAT, 0600) >= 0;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, NoCapabilityIsKeptForWhatNoneMends) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root gives files away";
    }
    ASSERT_EQ(::chown(own().c_str(), 12345, 12345), 0);
    ASSERT_EQ(::chmod(own().c_str(), 0700), 0);
    EXPECT_EQ(ask_in_child([&] {
                  ::setenv("CUDA_CACHE_PATH", (own() / "drivers").c_str(), 1);
                  confine(worker_confinement(false, {}));
                  return capabilities() == 0;
              }),
              Outcome::yes)
        << "drivers do without their caches";
    const std::filesystem::path loop = models() / "loop";
    std::filesystem::create_symlink(loop, loop);
    EXPECT_EQ(ask_in_child([&] {
                  confine(worker_confinement(true, {.readable = {loop}, .writable = {loop}}));
                  return capabilities() == 0;
              }),
              Outcome::yes);
}

// As in a container that may lock memory for RDMA, and not much else.
TEST_F(ConfinementTest, MemoryCanBeLockedWhereItsLimitCannotBeLifted) {
    if (::geteuid() != 0) {
        GTEST_SKIP() << "only root has capabilities";
    }
    constexpr uint32_t ipc_lock = 1u << 14;
    EXPECT_EQ(ask_in_child([&] {
                  const rlimit little{1 << 16, 1 << 16};
                  ::setrlimit(RLIMIT_MEMLOCK, &little);
                  std::array<uint32_t, 2> header{0x20080522, 0};
                  std::array<uint32_t, 6> sets{ipc_lock, ipc_lock, 0, 0, 0, 0};
                  if (::syscall(SYS_capset, header.data(), sets.data()) != 0) {
                      return false;
                  }
                  const bool has_rdma = std::filesystem::exists("/dev/infiniband");
                  const std::string said = confine(worker_confinement(true, {})).text;
                  return said.contains(has_rdma ? "capabilities: IPC_LOCK for RDMA" : "capabilities: none") &&
                         capabilities() == (has_rdma ? ipc_lock : 0);
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, TheMachineIsLeftAlone) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([&] {
                  char key = 'x';
                  return refused(::syscall(SYS_unshare, 0)) && refused(::syscall(SYS_bpf, 0, nullptr, 0)) &&
                         refused(::syscall(SYS_userfaultfd, 0)) && refused(::syscall(SYS_io_uring_setup, 1, nullptr)) &&
                         refused(::syscall(SYS_keyctl, 0, 0, 0, 0, 0)) && refused(::syscall(SYS_setuid, ::getuid())) &&
                         refused(::syscall(SYS_mount, nullptr, nullptr, nullptr, 0, nullptr)) &&
                         refused(::syscall(SYS_reboot, 0, 0, 0, nullptr)) &&
                         refused(::syscall(SYS_perf_event_open, nullptr, 0, 0, 0, 0)) &&
                         refused(::chmod((own()).c_str(), 0777)) && refused(::ioctl(2, TIOCSTI, &key));
              }),
              Outcome::yes);
}

#ifdef __x86_64__
TEST_F(ConfinementTest, OtherNumbersForTheSameCallsEndTheProcess) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([] { return ::syscall(0x40000000 | SYS_getpid) > 0; }), Outcome::died);
    // getpid as 32-bit programs call it.
    EXPECT_EQ(confined([] {
                  long number = 20;
                  asm volatile("int $0x80" : "+a"(number)::"memory", "r8", "r9", "r10", "r11");
                  return number > 0;
              }),
              Outcome::died);
}
#endif

TEST_F(ConfinementTest, ItIsNobodysServer) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([] {
                  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
                  return socket && refused(::listen(socket.get(), 1)) && refused(::accept(socket.get(), nullptr, nullptr));
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, NoPortIsBound) {
    NEEDS_LANDLOCK(4);
    EXPECT_EQ(confined([] {
                  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM, 0));
                  const sockaddr_in any{.sin_family = AF_INET, .sin_port = htons(45454), .sin_addr = {}, .sin_zero = {}};
                  return ::bind(socket.get(), reinterpret_cast<const sockaddr *>(&any), sizeof any) == -1 &&
                         errno == EACCES;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, ItConnectsToOtherServers) {
    const Listener listener;
    EXPECT_EQ(confined([&] {
                  const UniqueFd socket(::socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0));
                  return ::connect(socket.get(), reinterpret_cast<const sockaddr *>(&listener.address),
                                   sizeof listener.address) == 0;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, SocketsOfOtherKindsAreRefused) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([] {
                  return refused(::socket(AF_UNIX, SOCK_STREAM, 0)) && refused(::socket(AF_INET, SOCK_RAW, 1)) &&
                         refused(::socket(AF_PACKET, SOCK_DGRAM, 0)) && refused(::socket(AF_VSOCK, SOCK_STREAM, 0)) &&
                         refused(::socket(AF_NETLINK, SOCK_RAW, 9 /* audit */)) &&
                         ::socket(AF_NETLINK, SOCK_RAW, 0 /* route */) >= 0 && ::socket(AF_INET6, SOCK_DGRAM, 0) >= 0;
              }),
              Outcome::yes);
    EXPECT_EQ(ask_in_child([] {
                  confine({.network = Network::none, .files = {.read_anywhere = true}});
                  return refused(::socket(AF_INET, SOCK_STREAM, 0)) && refused(::socket(AF_NETLINK, SOCK_RAW, 0));
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, ThreadsWorkAndAreConfinedToo) {
    NEEDS_FILTERS
    EXPECT_EQ(confined([] {
                  bool was_refused = false;
                  std::thread([&] { was_refused = refused(::socket(AF_UNIX, SOCK_STREAM, 0)); }).join();
                  return was_refused;
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, ThreadsFromBeforeAreConfinedOrItSaysSo) {
    NEEDS_FILTERS
    EXPECT_EQ(ask_in_child([&] {
                  std::array<int, 2> go{}, come{};
                  if (::pipe(go.data()) != 0 || ::pipe(come.data()) != 0) {
                      return false;
                  }
                  std::array<bool, 2> stopped{};  // by seccomp, by Landlock
                  std::thread early([&] {
                      char byte = 0;
                      (void)!::read(go[0], &byte, 1);
                      stopped[0] = refused(::socket(AF_UNIX, SOCK_STREAM, 0));
                      stopped[1] = denied(::open(secret().c_str(), O_RDONLY));
                  });
                  const std::string said = confine(worker_confinement(true, {})).text;
                  (void)!::write(go[1], "x", 1);
                  early.join();
                  return stopped[0] && (stopped[1] || said.contains("not for threads") || said.contains("no Landlock"));
              }),
              Outcome::yes);
}

TEST_F(ConfinementTest, ABrokenGraphStillAborts) {
    // ggml's last words want a debugger, which is a fork.
    EXPECT_EQ(confined([]() -> bool { GGML_ABORT("on purpose"); }), Outcome::died);
}

}  // namespace
}  // namespace caravan::server
