// A descriptor that takes lines of text and never makes the writer wait: where nobody reads them, lines are dropped and
// counted. Thread-safe.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>

namespace caravan {

class LogOutput {
public:
    // Longer lines are cut. A pipe takes as much at once, or nothing (PIPE_BUF).
    static constexpr size_t max_line = 4096;

    // `fd` stays the caller's. A pipe or terminal that it refers to is opened again under the same number, without
    // blocking: the descriptors of other processes keep their mode.
    explicit LogOutput(int fd);

    // `line` without its newline.
    void write(std::string_view line);
    // Lines that the reader has missed since the last one that was written.
    uint64_t dropped() const;
    // True if the service manager stamps lines itself: `fd` leads to journald (JOURNAL_STREAM).
    bool is_journal() const { return is_journal_; }

private:
    bool write_some(std::string_view & bytes);
    bool write_whole(std::string line);

    const int fd_;
    bool is_socket_ = false;
    bool may_block_ = false;  // ask poll first
    bool is_journal_ = false;
    mutable std::mutex mutex_;
    std::string rest_;  // of a line whose beginning was written
    uint64_t dropped_ = 0;
};

}  // namespace caravan
