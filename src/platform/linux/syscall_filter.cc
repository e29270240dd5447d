// A deny list, not an allow list: the needs of GPU drivers change with each release. It contains calls that act on other
// processes or on the machine, and calls that no server needs once its back-ends are loaded. Calls that a driver or library
// may try fail with EPERM, so that it can continue. Calls that only an exploit makes kill the process, and the supervisor
// reports the signal.
//
// Plain BPF without a library: the filter is a list of numbers and a few tests of arguments.
#include "platform/syscall_filter.h"

#if defined(__linux__) && (defined(__x86_64__) || defined(__aarch64__))

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/fs.h>
#include <linux/netlink.h>
#include <linux/seccomp.h>
#include <linux/sockios.h>
#include <sched.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>
#include <initializer_list>
#include <utility>
#include <vector>

namespace caravan::platform {
namespace {

#ifdef __x86_64__
constexpr uint32_t own_arch = AUDIT_ARCH_X86_64;
#else
constexpr uint32_t own_arch = AUDIT_ARCH_AARCH64;
#endif
constexpr uint32_t x32_bit = 0x40000000;  // x86-64: the same calls under other numbers
constexpr uint32_t allow = SECCOMP_RET_ALLOW;
constexpr uint32_t kill_thread_group = SECCOMP_RET_KILL_PROCESS;
constexpr uint32_t refuse = SECCOMP_RET_ERRNO | EPERM;
constexpr uint32_t not_there = SECCOMP_RET_ERRNO | ENOSYS;

// Programs fork before they exec, and fork fails with EPERM, so only an exploit makes these calls.
constexpr uint32_t fatal_calls[] = {__NR_execve, __NR_execveat};

// Missing in the headers of some distributions that run newer kernels. The numbers are the same on all architectures.
constexpr uint32_t quotactl_fd = 443, fchmodat2 = 452, setxattrat = 463, removexattrat = 466, open_tree_attr = 467,
                   file_setattr = 469;

// Without the calls that this architecture or these headers do not define.
constexpr uint32_t refused_calls[] = {
// Other processes.
#ifdef __NR_fork
    __NR_fork, __NR_vfork,
#endif
    __NR_ptrace, __NR_process_vm_readv, __NR_process_vm_writev, __NR_kcmp, __NR_tkill,
    __NR_pidfd_send_signal,
#ifdef __NR_pidfd_open
    __NR_pidfd_open, __NR_pidfd_getfd, __NR_process_madvise,
#endif
#ifdef __NR_process_mrelease
    __NR_process_mrelease,
#endif
    // System V IPC and POSIX message queues, which processes of one user share.
    __NR_shmget, __NR_shmat, __NR_shmctl, __NR_semget, __NR_semop, __NR_semtimedop, __NR_semctl, __NR_msgget, __NR_msgsnd,
    __NR_msgrcv, __NR_msgctl, __NR_mq_open, __NR_mq_unlink,
    // Listening sockets. bind is permitted: libc and libnl bind their netlink sockets, and without listen no peer can connect
    // to a bound socket.
    __NR_listen, __NR_accept, __NR_accept4,
    // Changes of user and capabilities.
    __NR_setuid, __NR_setgid, __NR_setreuid, __NR_setregid, __NR_setresuid, __NR_setresgid, __NR_setfsuid,
    __NR_setfsgid, __NR_setgroups, __NR_capset,
    // File systems, and file operations that Landlock does not control.
    __NR_mount, __NR_umount2, __NR_pivot_root, __NR_chroot, __NR_move_mount, __NR_open_tree, __NR_fsopen, __NR_fsconfig,
    __NR_fsmount, __NR_fspick, __NR_open_by_handle_at, __NR_linkat, __NR_fanotify_init, __NR_mknodat, __NR_fchmod,
    __NR_fchmodat, __NR_fchown, __NR_fchownat, __NR_setxattr, __NR_lsetxattr, __NR_fsetxattr, __NR_removexattr,
    __NR_lremovexattr, __NR_fremovexattr, __NR_utimensat, __NR_quotactl, __NR_swapon, __NR_swapoff, __NR_acct,
    quotactl_fd, fchmodat2, setxattrat, removexattrat, open_tree_attr, file_setattr,
#ifdef __NR_mknod
    __NR_mknod, __NR_chmod, __NR_chown, __NR_lchown, __NR_link, __NR_utime, __NR_utimes, __NR_futimesat,
#endif
#ifdef __NR_mount_setattr
    __NR_mount_setattr,
#endif
    // Namespaces.
    __NR_unshare, __NR_setns,
    // The kernel: its programs and modules, and subsystems that are frequent targets of exploits.
    __NR_bpf, __NR_perf_event_open, __NR_userfaultfd, __NR_io_uring_setup, __NR_io_uring_enter, __NR_io_uring_register,
    __NR_keyctl, __NR_add_key, __NR_request_key, __NR_init_module, __NR_finit_module, __NR_delete_module,
    __NR_kexec_load,
#ifdef __NR_kexec_file_load
    __NR_kexec_file_load,
#endif
#ifdef __NR_iopl
    __NR_iopl, __NR_ioperm, __NR_modify_ldt,
#endif
    // The machine.
    __NR_reboot, __NR_syslog, __NR_sethostname, __NR_setdomainname, __NR_settimeofday, __NR_clock_settime,
    __NR_clock_adjtime, __NR_adjtimex, __NR_vhangup,
};

class Filter {
public:
    Filter() {
        load(offsetof(seccomp_data, arch));
        answer_unless(own_arch, kill_thread_group);
        load(offsetof(seccomp_data, nr));
#ifdef __x86_64__
        program_.push_back(BPF_JUMP(BPF_JMP | BPF_JGE | BPF_K, x32_bit, 0, 1));
        answer(kill_thread_group);
#endif
    }

    void on(uint32_t call, uint32_t what) {
        skip_unless(call, 1);
        answer(what);
    }

    // Adds `rule`, which tests the arguments of `call` and must end with an answer in each case.
    template <class Rule>
    void on(uint32_t call, Rule rule) {
        skip_unless(call, 0);
        const size_t jump = program_.size() - 1;
        rule();
        program_[jump].jf = static_cast<uint8_t>(program_.size() - 1 - jump);
    }

    // Loads the lower 32 bits of an argument: the kernel uses no others of the arguments tested here.
    void load_argument(size_t index) {
        load(offsetof(seccomp_data, args) + index * sizeof(uint64_t));
    }
    void mask(uint32_t bits) { program_.push_back(BPF_STMT(BPF_ALU | BPF_AND | BPF_K, bits)); }
    void answer(uint32_t what) { program_.push_back(BPF_STMT(BPF_RET | BPF_K, what)); }
    void answer_if(uint32_t value, uint32_t what) { on(value, what); }
    void answer_unless(uint32_t value, uint32_t what) {
        program_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 1, 0));
        answer(what);
    }

    Result<> install() {
        const sock_fprog program{static_cast<unsigned short>(program_.size()), program_.data()};
        const long done = ::syscall(SYS_seccomp, SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC, &program);
        if (done > 0) {
            return fail(Errc::unsupported, "thread {} has a filter of its own", done);
        }
        if (done != 0) {
            return fail(Errc::unsupported, "{}",
                        errno == EINVAL || errno == ENOSYS ? "this kernel has no filters" : errno_text(errno));
        }
        return {};
    }

private:
    void load(size_t offset) {
        program_.push_back(BPF_STMT(BPF_LD | BPF_W | BPF_ABS, static_cast<uint32_t>(offset)));
    }
    void skip_unless(uint32_t value, uint8_t count) {
        program_.push_back(BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, value, 0, count));
    }

    std::vector<sock_filter> program_;
};

void add_process_rules(Filter & filter, bool may_bind_threads) {
    // Threads only, in the same namespaces. A filter cannot read the flags of clone3; libc falls back to clone.
    constexpr uint32_t namespaces = CLONE_NEWNS | CLONE_NEWCGROUP | CLONE_NEWUTS | CLONE_NEWIPC | CLONE_NEWUSER |
                                    CLONE_NEWPID | CLONE_NEWNET;
    filter.on(__NR_clone3, not_there);
    filter.on(__NR_clone, [&] {
        filter.load_argument(0);
        filter.mask(CLONE_THREAD | namespaces);
        filter.answer_unless(CLONE_THREAD, refuse);
        filter.answer(allow);
    });
    // Signals to this process only, as abort() sends.
    const auto self = static_cast<uint32_t>(::getpid());
    for (const uint32_t call : {__NR_kill, __NR_tgkill, __NR_rt_sigqueueinfo, __NR_rt_tgsigqueueinfo}) {
        filter.on(call, [&] {
            filter.load_argument(0);
            filter.answer_unless(self, refuse);
            filter.answer(allow);
        });
    }
    const auto only_self = [&](size_t argument) {  // 0: the calling thread
        filter.load_argument(argument);
        filter.answer_if(0, allow);
        filter.answer_unless(self, refuse);
        filter.answer(allow);
    };
    for (const uint32_t call : {__NR_prlimit64, __NR_sched_setscheduler, __NR_sched_setparam, __NR_sched_setattr,
                                __NR_move_pages, __NR_migrate_pages}) {
        filter.on(call, [&] { only_self(0); });
    }
    if (!may_bind_threads) {
        filter.on(__NR_sched_setaffinity, [&] { only_self(0); });
    }
    for (const auto & [call, process] : {std::pair<uint32_t, uint32_t>{__NR_setpriority, PRIO_PROCESS},
                                         std::pair<uint32_t, uint32_t>{__NR_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */}}) {
        filter.on(call, [&] {
            filter.load_argument(0);
            filter.answer_unless(process, refuse);
            only_self(1);
        });
    }
    // Signals to other processes when a descriptor becomes readable.
    filter.on(__NR_fcntl, [&] {
        filter.load_argument(1);
        filter.answer_if(F_SETSIG, refuse);
        filter.answer_if(F_SETOWN_EX, refuse);
        filter.answer_unless(F_SETOWN, allow);
        only_self(2);
    });
    // Input into the terminal that the server was started from, signals as above, and attributes of files that are open for
    // reading.
    filter.on(__NR_ioctl, [&] {
        filter.load_argument(1);
        filter.answer_if(TIOCSTI, refuse);
        filter.answer_if(TIOCLINUX, refuse);
        filter.answer_if(FIOSETOWN, refuse);
        filter.answer_if(SIOCSPGRP, refuse);
        filter.answer_if(FS_IOC_SETFLAGS, refuse);
        filter.answer_if(FS_IOC_FSSETXATTR, refuse);
        filter.answer(allow);
    });
}

void add_network_rules(Filter & filter, Network network) {
    constexpr uint32_t type_bits = 0xf;  // without SOCK_CLOEXEC and the like
    // A datagram socket could be reconnected to any Unix socket.
    filter.on(__NR_socketpair, [&] {
        filter.load_argument(1);
        filter.mask(type_bits);
        filter.answer_unless(SOCK_STREAM, refuse);
        filter.answer(allow);
    });
    // The process that closes the last handle of a lingering socket sleeps until the peer has everything. If the handle is
    // attached to a message, that is the receiver, also one that accepts no handles: the server's main process.
    filter.on(__NR_setsockopt, [&] {
        filter.load_argument(1);
        filter.answer_unless(SOL_SOCKET, allow);
        filter.load_argument(2);
        filter.answer_if(SO_LINGER, refuse);
        filter.answer(allow);
    });
    if (network == Network::none) {
        filter.on(__NR_socket, refuse);
        return;
    }
    // No Unix sockets: privileged services listen on them (container engines, D-Bus, key agents).
    filter.on(__NR_socket, [&] {
        filter.load_argument(0);
        filter.on(AF_NETLINK, [&] {
            filter.load_argument(2);
            for (const uint32_t protocol : {NETLINK_ROUTE, NETLINK_RDMA, NETLINK_KOBJECT_UEVENT}) {
                filter.answer_if(protocol, allow);
            }
            filter.answer(refuse);
        });
        for (const uint32_t family : {AF_INET, AF_INET6}) {
            filter.on(family, [&] {
                filter.load_argument(1);
                filter.mask(type_bits);
                filter.answer_if(SOCK_STREAM, allow);
                filter.answer_if(SOCK_DGRAM, allow);  // for DNS
                filter.answer(refuse);
            });
        }
        filter.answer(refuse);
    });
}

}  // namespace

Result<> refuse_syscalls(Network network, bool may_bind_threads) {
    Filter filter;
    for (const uint32_t call : fatal_calls) {
        filter.on(call, kill_thread_group);
    }
    for (const uint32_t call : refused_calls) {
        filter.on(call, refuse);
    }
    add_process_rules(filter, may_bind_threads);
    add_network_rules(filter, network);
    filter.answer(allow);
    return filter.install();
}

}  // namespace caravan::platform

#else

namespace caravan::platform {

Result<> refuse_syscalls(Network, bool) { return fail(Errc::unsupported, "there is no filter for this processor or system"); }

}  // namespace caravan::platform

#endif
