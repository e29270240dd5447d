// Landlock: limits the file accesses of the process by path.
#pragma once

#include <filesystem>
#include <vector>

#include "base/error.h"

namespace caravan::platform {

// Each entry includes everything below it. A path that does not exist when the rules are applied stays inaccessible.
struct FileRules {
    bool read_anywhere = false;
    std::vector<std::filesystem::path> readable;
    std::vector<std::filesystem::path> readable_files;  // ignored if the path has a symbolic link
    std::vector<std::filesystem::path> writable;   // also to read, and to create, rename and remove files
    std::vector<std::filesystem::path> caches;     // as writable, but no capability is kept to access them
    // To read, to remove files from, and as the target of moves from a writable folder. Files there can be neither written nor
    // moved to a writable folder.
    std::vector<std::filesystem::path> receiving;
    std::vector<std::filesystem::path> devices;   // to read, write and ioctl
};

struct FileLimits {
    bool all_threads = false;  // false: the calling thread and those that it starts later only
    bool no_tcp_bind = false;
    bool no_truncation = false;  // of files outside writable folders
};

// Applies the rules, irreversibly. Also forbids to execute files and, where the kernel supports it, to bind TCP ports and to
// signal other processes. The process must have no_new_privs. Errc::unsupported: the kernel has no usable Landlock; the text
// states the reason.
Result<FileLimits> restrict_files(const FileRules & rules);

// Whether this process has other threads than the calling one.
bool has_more_threads();

}  // namespace caravan::platform
