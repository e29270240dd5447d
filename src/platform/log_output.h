// Writes lines of text to a descriptor without blocking. Drops and counts lines while the reader does not keep up.
// Thread-safe.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace caravan {

class LogOutput {
public:
    // Longer lines are truncated. A write of up to PIPE_BUF bytes to a pipe is atomic.
    static constexpr size_t max_line = 4096;

    // Does not take ownership of `fd`. A pipe or terminal is reopened under the same descriptor number in non-blocking
    // mode, so that the descriptors of other processes keep their mode.
    explicit LogOutput(int fd);

    // `line` has no newline.
    void write(std::string_view line);
    // The number of lines dropped since the last successful write.
    uint64_t dropped() const;
    // True if `fd` leads to journald (JOURNAL_STREAM), which adds time stamps itself.
    bool is_journal() const { return is_journal_; }

private:
    bool write_some(std::string_view & bytes);
    bool write_whole(std::string line);

    const int fd_;
    bool is_socket_ = false;
    bool may_block_ = false;  // poll before each write
    bool is_journal_ = false;
    mutable std::mutex mutex_;
    std::string rest_;  // the unwritten part of a partially written line
    uint64_t dropped_ = 0;
};

}  // namespace caravan
