// Landlock: what a process may still do with files, by their place in the file system.
#pragma once

#include <filesystem>
#include <vector>

#include "base/error.h"

namespace caravan::server {

// Each entry stands for all below it. What does not exist when the rules come into force is nobody's to use later.
struct FileRules {
    bool read_anywhere = false;
    std::vector<std::filesystem::path> readable;
    std::vector<std::filesystem::path> readable_files;  // without symbolic links in their paths, or they do not count
    std::vector<std::filesystem::path> writable;   // also: to read, and to make, rename and remove files in
    std::vector<std::filesystem::path> caches;     // as writable, if this user may: no capability is kept for them
    // To read, to remove files from, and to move files to that were made in a writable place. What is there is not written,
    // nor moved to where it could be.
    std::vector<std::filesystem::path> receiving;
    std::vector<std::filesystem::path> devices;   // to read, write and control what is there
};

struct FileLimits {
    bool all_threads = false;  // else only the calling thread, and those that it starts from now on
    bool no_tcp_bind = false;
    bool no_truncation = false;  // of files that are not writable
};

// For ever. Nothing is executed any more, and where the kernel can tell, no TCP port is bound and no process outside is
// signalled. The process must have no_new_privs. Errc::unsupported says why the kernel cannot do it.
Result<FileLimits> restrict_files(const FileRules & rules);

// Of this process, besides the calling one.
bool has_more_threads();

}  // namespace caravan::server
