// Process 1 of a lab machine. Static, and all that the initramfs holds besides kernel modules.
//
// /lab.conf, written by the host, says what to make; one item a line, fields separated by tabs:
//   name   NAME
//   line   PATH|virtio                 where the host's commands come from: a tty, or the virtio port named "lab"
//   cpu    MHZ                         write "cpu MHz" into /proc/cpuinfo, which User Mode Linux leaves out
//   mount  TYPE  ro|rw  SOURCE  PATH   9p (SOURCE is the tag) or hostfs (SOURCE is the host's path); PATH / comes first
//
// The root is an overlay: the host's tree below, read-only, and memory above it, so a guest may write anywhere and
// nothing of it reaches the host. Only a rw mount does.
#define _GNU_SOURCE
#include "guest.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/reboot.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <termios.h>
#include <unistd.h>

enum { tries = 1000, try_us = 5000 }; // 5 s for a device to appear

void say(const char *what, const char *which) {
    char text[600];
    int length = errno ? snprintf(text, sizeof text, "<2>lab: %s %s: %s\n", what, which, strerror(errno))
                       : snprintf(text, sizeof text, "<2>lab: %s %s\n", what, which);
    int fd = open("/dev/kmsg", O_WRONLY | O_CLOEXEC);
    if (fd < 0) return;
    if (length >= (int) sizeof text) length = sizeof text - 1;
    (void) !write(fd, text, length);
    close(fd);
}

static _Noreturn void die(const char *what, const char *which) {
    say(what, which);
    reboot(LINUX_REBOOT_CMD_POWER_OFF);
    _exit(1);
}

static void attach(const char *source, const char *path, const char *type, unsigned long flags, const char *options) {
    errno = 0;
    if (mount(source, path, type, flags, options)) say("mounting", path);
}

static void make_folder(const char *path) {
    char part[4096];
    snprintf(part, sizeof part, "%s", path);
    for (char *slash = part + 1; (slash = strchr(slash, '/')); *slash++ = '/') {
        *slash = 0;
        mkdir(part, 0755);
    }
    mkdir(part, 0755);
}

// /modules/NNN-name.ko, in the order in which they need each other.
static void load_modules(void) {
    struct dirent **found;
    int count = scandir("/modules", &found, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (found[i]->d_name[0] == '.') continue;
        char path[300];
        snprintf(path, sizeof path, "/modules/%s", found[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        errno = 0;
        if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST) say("loading", path);
        close(fd);
    }
}

static int mount_shared(char *type, char *mode, char *source, const char *path) {
    const char *options = source; // hostfs: the folder is the option
    if (!strcmp(type, "9p")) {
        // loose: what does not change is asked once. A rw folder is written by both sides.
        options = *mode && mode[1] == 'o' ? "trans=virtio,version=9p2000.L,msize=512000,cache=loose"
                                          : "trans=virtio,version=9p2000.L,msize=512000,cache=mmap";
    }
    for (int i = 0; i < tries; i++) {
        errno = 0;
        if (!mount(source, path, type, !strcmp(mode, "ro") ? MS_RDONLY : 0, options)) return 0;
        usleep(try_us); // the virtio device may not be there yet
    }
    return -1;
}

static void make_root(char *type, char *mode, char *source) {
    mkdir("/below", 0755);
    mkdir("/above", 0755);
    mkdir("/root", 0755);
    if (mount_shared(type, mode, source, "/below")) die("mounting the root from", source);
    attach("tmpfs", "/above", "tmpfs", 0, "size=80%");
    mkdir("/above/files", 0755);
    mkdir("/above/work", 0755);
    if (mount("overlay", "/root", "overlay", 0, "lowerdir=/below,upperdir=/above/files,workdir=/above/work"))
        die("mounting", "the overlay");
    static const char *const kept[] = {"/dev", "/proc", "/sys"};
    for (int i = 0; i < 3; i++) {
        char path[16];
        snprintf(path, sizeof path, "/root%s", kept[i]);
        mkdir(path, 0755);
        attach(kept[i], path, NULL, MS_MOVE, NULL);
    }
    if (chdir("/root") || chroot(".") || chdir("/")) die("entering", "the root");
    mkdir("/dev/pts", 0755);
    mkdir("/dev/shm", 01777);
    attach("devpts", "/dev/pts", "devpts", 0, "ptmxmode=666");
    attach("tmpfs", "/dev/shm", "tmpfs", 0, "mode=1777");
    attach("tmpfs", "/tmp", "tmpfs", 0, "mode=1777");
    attach("tmpfs", "/run", "tmpfs", 0, "mode=755");
    (void) !symlink("/proc/self/fd", "/dev/fd");
    (void) !symlink("/proc/self/fd/0", "/dev/stdin");
    (void) !symlink("/proc/self/fd/1", "/dev/stdout");
    (void) !symlink("/proc/self/fd/2", "/dev/stderr");
}

static void write_cpuinfo(const char *mhz) {
    char text[512];
    FILE *from = fopen("/proc/cpuinfo", "re");
    FILE *to = fopen("/run/cpuinfo", "we");
    if (!from || !to) return;
    while (fgets(text, sizeof text, from)) {
        fputs(text, to);
        if (!strncmp(text, "model name", 10)) fprintf(to, "cpu MHz\t\t: %s\n", mhz);
    }
    fclose(from);
    fclose(to);
    attach("/run/cpuinfo", "/proc/cpuinfo", NULL, MS_BIND, NULL);
}

// The path of the virtio port that the host named "lab".
static void find_port(char *path, size_t size) {
    for (int i = 0; i < tries; i++) {
        DIR *ports = opendir("/sys/class/virtio-ports");
        for (struct dirent *port; ports && (port = readdir(ports));) {
            char name[64] = "", file[320];
            snprintf(file, sizeof file, "/sys/class/virtio-ports/%s/name", port->d_name);
            FILE *named = fopen(file, "re");
            if (!named) continue;
            (void) !fgets(name, sizeof name, named);
            fclose(named);
            if (strcmp(name, "lab\n") != 0) continue;
            snprintf(path, size, "/dev/%s", port->d_name);
            closedir(ports);
            return;
        }
        if (ports) closedir(ports);
        usleep(try_us);
    }
    die("no virtio port", "lab");
}

static int open_line(const char *path) {
    char found[300];
    if (!strcmp(path, "virtio")) {
        find_port(found, sizeof found);
        path = found;
    }
    // Without O_NONBLOCK opening a tty would wait for a carrier.
    int fd = open(path, O_RDWR | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    if (fd < 0) die("opening", path);
    struct termios raw;
    if (!tcgetattr(fd, &raw)) {
        cfmakeraw(&raw);
        raw.c_cflag |= CLOCAL;
        tcsetattr(fd, TCSANOW, &raw);
    }
    fcntl(fd, F_SETFL, O_RDWR);
    return fd;
}

int main(void) {
    mkdir("/dev", 0755);
    mkdir("/proc", 0755);
    mkdir("/sys", 0755);
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL); // some kernels have done it already
    attach("proc", "/proc", "proc", 0, NULL);
    attach("sysfs", "/sys", "sysfs", 0, NULL);
    load_modules();

    FILE *conf = fopen("/lab.conf", "re");
    if (!conf) die("reading", "/lab.conf");
    char *text = NULL, *line = NULL, *mhz = NULL;
    size_t room = 0;
    for (ssize_t length; (length = getline(&text, &room, conf)) > 0;) {
        text[length - 1] = 0;
        char *rest = text, *key = strsep(&rest, "\t");
        char *field[4] = {"", "", "", ""};
        for (int i = 0; i < 4 && rest; i++) field[i] = strsep(&rest, "\t");
        if (!strcmp(key, "name")) (void) !sethostname(field[0], strlen(field[0]));
        if (!strcmp(key, "line")) line = strdup(field[0]);
        if (!strcmp(key, "cpu")) mhz = strdup(field[0]);
        if (strcmp(key, "mount") != 0) continue;
        if (!strcmp(field[3], "/")) {
            make_root(field[0], field[1], field[2]);
        } else {
            make_folder(field[3]);
            if (mount_shared(field[0], field[1], field[2], field[3])) say("mounting", field[3]);
        }
    }
    fclose(conf);
    if (mhz) write_cpuinfo(mhz);

    // What systemd gives a service: no limit on memory that root locks, many files.
    setrlimit(RLIMIT_MEMLOCK, &(struct rlimit) {RLIM_INFINITY, RLIM_INFINITY});
    setrlimit(RLIMIT_NOFILE, &(struct rlimit) {65536, 65536});
    if (!line) die("no line in", "/lab.conf");
    agent(open_line(line));
}
