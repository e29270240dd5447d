// Files. Where std::filesystem is equally right, use that. The text of an error is the system's reason, without the path,
// unless stated otherwise. Threads: any.
#pragma once

#include <cstdint>
#include <filesystem>
#include <optional>
#include <string>

#include "base/bytes.h"
#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

// What open_to_read() does with a symbolic link.
enum class Links {
    follow,
    refuse_last,  // fails if the path itself is one
    refuse_any,   // and if one leads to it. (Linux before 5.6, other systems, and some containers check the last one only.)
};

// Opens a file to read it; never waits for a FIFO's writer. Errc::not_found: no such file. Errc::invalid_argument: a refused
// link, or a special file without a driver. Errc::io: any other reason, which may be temporary.
Result<UniqueFd> open_to_read(const std::filesystem::path & path, Links links = Links::follow);

// Creates the file if it is missing, for all users as the umask permits. Each write appends. Errc::io.
Result<UniqueFd> open_to_append(const std::filesystem::path & path);

// Creates a file named `prefix` and six more characters, mode 0600. Errc::io.
struct NewFile {
    UniqueFd fd;
    std::string path;
};
Result<NewFile> create_unique_file(std::string prefix);

// Errc::io on failure: some file systems report a full disk only here.
Result<> close_file(UniqueFd file);

// Returns the number of bytes read; 0 at the end of the file. Errc::io.
Result<size_t> read_at(Descriptor file, MutableBytes to, uint64_t offset);
Result<size_t> read_some(Descriptor file, MutableBytes to);
// Writes all, or fails with Errc::io.
Result<> write_all(Descriptor file, ConstBytes bytes);
// Writes in a single system call, so that lines of several processes do not mix. Errc::io also if it wrote less.
Result<> write_at_once(Descriptor file, ConstBytes bytes);

struct FileStatus {
    uint64_t device = 0, inode = 0;  // identify the file on this machine
    uint64_t size = 0;               // bytes
    uint64_t allocated = 0;          // bytes on the disk
    int64_t modified_ns = 0;         // since 1970
    uint64_t links = 0;              // names
    uint32_t owner = 0;              // user
    bool is_regular = false, is_link = false;
};
std::optional<FileStatus> status_of(Descriptor file);
// Of the link itself, if it is one.
std::optional<FileStatus> status_of_name(const std::filesystem::path & path);

// True if `user` is root or the effective user of this process.
bool is_trusted_owner(uint32_t user);

// Creates a directory, mode 0700, unless it exists. Errc::io unless this process can list, read and write it then.
Result<> make_private_directory(const std::filesystem::path & path);
bool may_list(const std::filesystem::path & directory);
bool may_execute(const std::filesystem::path & file);

// Removes a name; ignores failure.
void remove_name(const std::filesystem::path & path) noexcept;
void remove_name(const std::string & path) noexcept;

// Moves a file to `to` on the same file system and replaces what is there. Errc::io.
Result<> move_over(const std::string & from, const std::filesystem::path & to);
// Returns false if `to` exists. On file systems without hard links (FAT, some network shares) another process can create `to`
// between the check and the move; it is replaced then. Errc::io.
Result<bool> move_if_absent(const std::string & from, const std::filesystem::path & to);

// Advisory locks, which belong to the open file: copies of the descriptor, and mappings of the file, keep them.
enum class Lock { shared, exclusive };
enum class Locked {
    yes,
    busy,         // another open file has a lock that excludes it
    unsupported,  // the file system has no locks
};
Locked try_lock(Descriptor file, Lock lock);

// True if no process has the file open for writing now. False if the system cannot know.
bool has_no_writer(Descriptor file);

// Removes the file from the page cache, after writing what is dirty. Pages in use stay. Errc::unsupported.
Result<> drop_from_page_cache(Descriptor file);

}  // namespace caravan::platform
