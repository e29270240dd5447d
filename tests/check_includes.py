"""Fails if a file outside src/platform includes a header of the operating system or uses errno, and if one outside
src/base/environment.cc reads the environment.

Usage: check_includes.py SRC
"""
import pathlib
import re
import sys

# libibverbs reports errors in errno.
ALLOWED_ERRNO = ["net/rdma/device_events.cc", "net/rdma/queue_pair.cc"]

# Every header in a folder of the system's, and those of POSIX and Linux that lie beside the standard library's.
FOLDERS = r"(?:sys|linux|asm|net|netinet|arpa|mach|bits)/[\w./]+"
FILES = r"""aio|cpio|dirent|dlfcn|err|fcntl|fnmatch|ftw|getopt|glob|grp|ifaddrs|iconv|langinfo|libgen|link|mqueue|netdb|poll|
pthread|pty|pwd|regex|sched|search|semaphore|signal|spawn|strings|syslog|termios|ucontext|unistd|utime|utmpx?|wordexp|
windows|winsock2|ws2tcpip"""
OS_HEADER = re.compile(r"^\s*#\s*include\s*<(" + FOLDERS + "|(?:" + FILES.replace("\n", "") + r")\.h)>")
ERRNO = re.compile(r"<cerrno>|<errno\.h>|\berrno\b(?!_)")


def strip_comment(line):
    return line.split("//", 1)[0]


def main():
    src = pathlib.Path(sys.argv[1])
    faults = []
    for path in sorted(src.rglob("*")):
        name = path.relative_to(src).as_posix()
        if path.suffix not in (".cc", ".h") or name.startswith("platform/"):
            continue
        for number, line in enumerate(path.read_text().splitlines(), 1):
            code = strip_comment(line)
            found = OS_HEADER.match(code) or (name not in ALLOWED_ERRNO and ERRNO.search(code))
            if "getenv(" in code and name != "base/environment.cc":
                faults.append(f"{path}:{number}: reads the environment; use base/environment.h")
            if found:
                faults.append(f"{path}:{number}: {line.strip()}")
    if faults:
        print("\n".join(faults))
        print("Only src/platform may include headers of the operating system (docs/architecture.md, Modules).")
        sys.exit(1)


main()
