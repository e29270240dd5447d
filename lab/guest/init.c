// Process 1 of a lab machine: a static program in an initramfs that otherwise contains kernel modules only.
//
// The host writes /lab.conf: one item per line, fields separated by tabs.
//   name   NAME
//   line   PATH|virtio                 the line to the host: a tty, or the virtio port named "lab"
//   cpu    MHZ                         add "cpu MHz" to /proc/cpuinfo, which User Mode Linux omits
//   mount  TYPE  ro|rw  SOURCE  PATH   9p (SOURCE is the tag) or hostfs (SOURCE is the host's path); PATH / comes first
//
// The root is an overlay of memory over the host's tree, which is read-only: a guest may write anywhere, but only writes to
// a rw mount reach the host.
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

void report(const char *what, const char *which) {
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
    report(what, which);
    reboot(LINUX_REBOOT_CMD_POWER_OFF);
    _exit(1);
}

static void attach(const char *source, const char *path, const char *type, unsigned long flags, const char *options) {
    errno = 0;
    if (mount(source, path, type, flags, options)) report("mounting", path);
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

// Loads /modules/NNN-name.ko in order of their dependencies.
static void load_modules(void) {
    struct dirent **found;
    int count = scandir("/modules", &found, NULL, alphasort);
    for (int i = 0; i < count; i++) {
        if (found[i]->d_name[0] == '.') continue;
        char path[300];
        snprintf(path, sizeof path, "/modules/%s", found[i]->d_name);
        int fd = open(path, O_RDONLY | O_CLOEXEC);
        errno = 0;
        if (syscall(SYS_finit_module, fd, "", 0) && errno != EEXIST) report("loading", path);
        close(fd);
    }
}

static int mount_shared(char *type, char *mode, char *source, const char *path) {
    const char *options = source; // hostfs: the folder is the option
    if (!strcmp(type, "9p")) {
        // cache=loose caches unchanging files. Both sides write a rw folder.
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
    // Without O_NONBLOCK, open() of a tty waits for a carrier.
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
    mount("devtmpfs", "/dev", "devtmpfs", 0, NULL); // already mounted by some kernels
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
            if (mount_shared(field[0], field[1], field[2], field[3])) report("mounting", field[3]);
        }
    }
    fclose(conf);
    if (mhz) write_cpuinfo(mhz);

    // As in a systemd service: root may lock memory without limit, and open many files.
    setrlimit(RLIMIT_MEMLOCK, &(struct rlimit) {RLIM_INFINITY, RLIM_INFINITY});
    setrlimit(RLIMIT_NOFILE, &(struct rlimit) {65536, 65536});
    if (!line) die("no line in", "/lab.conf");
    agent(open_line(line));
}
