// Runs commands for the host, several at a time, over one byte stream; ../channel.py is the other end.
//
// A frame is a header of three little-endian 32-bit numbers (length of the payload, id of the command, kind), and a payload.
//   from the host   'S' start: "null" or "tty", NAME=VALUE..., "", argument...; each ends with a zero byte
//                   'I' input, for a tty         'W' rows and columns, two 32-bit numbers
//                   'K' signal number: sent to the command's process group
//   to the host     'R' the machine is ready     'O' output (stdout and stderr)     'X' wait status: the command ended
// The command's own output precedes its 'X'.
#define _GNU_SOURCE
#include "guest.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <pty.h>
#include <signal.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

enum { max_commands = 64, max_frame = 1 << 20, chunk = 32 << 10 };

struct command {
    pid_t pid; // 0: free
    uint32_t id;
    int output; // read end of its output; the tty, for input too, if it has one. -1: closed
};

static struct command commands[max_commands];
static int line;

static void put(const void *bytes, size_t length) {
    for (const char *from = bytes; length > 0;) {
        ssize_t written = write(line, from, length);
        if (written > 0) {
            from += written;
            length -= written;
        } else if (errno == EAGAIN) {
            poll(&(struct pollfd) {.fd = line, .events = POLLOUT}, 1, 100);
        } else if (errno != EINTR) {
            return; // the host process has ended; so will this machine
        }
    }
}

static void send_frame(uint32_t id, uint32_t kind, const void *bytes, uint32_t length) {
    struct {
        uint32_t header[3];
        char bytes[chunk];
    } frame = {.header = {length, id, kind}};
    memcpy(frame.bytes, bytes, length);
    put(&frame, sizeof frame.header + length);
}

static struct command *find(uint32_t id) {
    for (int i = 0; i < max_commands; i++)
        if (commands[i].pid && commands[i].id == id) return &commands[i];
    return NULL;
}

// Forwards one chunk of output. False: no data available, or end of output.
static int pass_output(struct command *command) {
    static char bytes[chunk];
    if (command->output < 0) return 0;
    ssize_t length = read(command->output, bytes, sizeof bytes);
    if (length > 0) {
        send_frame(command->id, 'O', bytes, length);
        return 1;
    }
    if (length == 0 || (errno != EAGAIN && errno != EINTR)) { // reading a tty whose other end is closed fails with EIO
        close(command->output);
        command->output = -1;
    }
    return 0;
}

static _Noreturn void become(char **environment, char **arguments) {
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    clearenv();
    const char *folder = "/";
    for (; **environment; environment++) {
        putenv(*environment);
        if (!strncmp(*environment, "PWD=", 4)) folder = *environment + 4;
    }
    if (chdir(folder)) (void) !chdir("/");
    execvp(arguments[0], arguments);
    static const char lost[] = "lab: cannot execute the command\n";
    (void) !write(2, lost, sizeof lost - 1);
    _exit(127);
}

static void start(uint32_t id, char *bytes, size_t length) {
    static char *strings[4096];
    int count = 0, environment = 1, arguments = 0;
    for (char *from = bytes; from < bytes + length && count < 4095; from += strlen(from) + 1) {
        strings[count++] = from;
        if (!*from && !arguments) arguments = count;
    }
    strings[count] = NULL;
    struct command *command = commands;
    while (command < commands + max_commands && command->pid) command++;
    int failed = 127 << 8, with_tty = count > 0 && !strcmp(strings[0], "tty"), ends[2] = {-1, -1};
    if (!arguments || arguments == count || command == commands + max_commands ||
        (!with_tty && pipe2(ends, O_CLOEXEC))) {
        send_frame(id, 'X', &failed, sizeof failed);
        return;
    }
    pid_t pid = with_tty ? forkpty(&ends[0], NULL, NULL, NULL) : fork();
    if (pid == 0) {
        if (!with_tty) {
            setsid();
            dup2(open("/dev/null", O_RDONLY), 0);
            dup2(ends[1], 1);
            dup2(ends[1], 2);
        }
        become(strings + environment, strings + arguments);
    }
    if (ends[1] >= 0) close(ends[1]);
    if (pid < 0) {
        if (ends[0] >= 0) close(ends[0]);
        send_frame(id, 'X', &failed, sizeof failed);
        return;
    }
    fcntl(ends[0], F_SETFL, O_RDWR | O_NONBLOCK);
    fcntl(ends[0], F_SETFD, FD_CLOEXEC);
    *command = (struct command) {.pid = pid, .id = id, .output = ends[0]};
}

static void handle(uint32_t id, uint32_t kind, char *bytes, uint32_t length) {
    if (kind == 'S') {
        start(id, bytes, length);
        return;
    }
    struct command *command = find(id);
    if (!command) return; // already ended
    uint32_t number[2] = {0, 0};
    memcpy(number, bytes, length < sizeof number ? length : sizeof number);
    if (kind == 'K') kill(-command->pid, number[0]);
    if (kind == 'I' && command->output >= 0) (void) !write(command->output, bytes, length);
    if (kind == 'W' && command->output >= 0)
        ioctl(command->output, TIOCSWINSZ, &(struct winsize) {.ws_row = number[0], .ws_col = number[1]});
}

// Reads available bytes and handles each complete frame.
static void receive(void) {
    static char bytes[12 + max_frame + 1];
    static size_t have;
    ssize_t length = read(line, bytes + have, sizeof bytes - 1 - have);
    if (length <= 0) {
        usleep(1000); // a virtio port without a host end polls as readable, without data
        return;
    }
    have += length;
    for (uint32_t header[3]; have >= sizeof header;) {
        memcpy(header, bytes, sizeof header);
        if (header[0] > max_frame) {
            errno = 0;
            report("a frame too long", "from the host");
            _exit(1); // process 1: the machine stops
        }
        size_t whole = sizeof header + header[0];
        if (have < whole) return;
        char after = bytes[whole];
        bytes[whole] = 0; // terminates strings in the payload
        handle(header[1], header[2], bytes + sizeof header, header[0]);
        bytes[whole] = after;
        memmove(bytes, bytes + whole, have -= whole);
    }
}

static void reap(void) {
    int status;
    for (pid_t pid; (pid = waitpid(-1, &status, WNOHANG)) > 0;) {
        for (struct command *command = commands; command < commands + max_commands; command++) {
            if (command->pid != pid) continue;
            // The pipe holds at most 64 KB of its output; background processes may write without end.
            for (int i = 0; i < 16 && pass_output(command); i++) {}
            send_frame(command->id, 'X', &status, sizeof status);
            if (command->output >= 0) close(command->output);
            command->pid = 0;
        }
    }
}

void agent(int fd) {
    line = fd;
    sigset_t children;
    sigemptyset(&children);
    sigaddset(&children, SIGCHLD);
    sigprocmask(SIG_BLOCK, &children, NULL);
    signal(SIGPIPE, SIG_IGN);
    int ended = signalfd(-1, &children, SFD_NONBLOCK | SFD_CLOEXEC);
    send_frame(0, 'R', "", 0);
    for (;;) {
        struct pollfd watched[2 + max_commands] = {{.fd = line, .events = POLLIN}, {.fd = ended, .events = POLLIN}};
        for (int i = 0; i < max_commands; i++)
            watched[2 + i] = (struct pollfd) {.fd = commands[i].pid ? commands[i].output : -1, .events = POLLIN};
        if (poll(watched, 2 + max_commands, -1) < 0) continue;
        for (int i = 0; i < max_commands; i++)
            if (watched[2 + i].revents) pass_output(&commands[i]);
        if (watched[1].revents) {
            struct signalfd_siginfo which[8];
            (void) !read(ended, which, sizeof which);
            reap();
        }
        if (watched[0].revents) receive();
    }
}
