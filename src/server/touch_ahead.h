// Makes memory resident before it is written: a first write to each page of a new buffer costs the operating system more
// time than the copying, so while weights come in another thread goes ahead of them.
//
// Threads: one, as the session's. The other thread is its own.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/bytes.h"

namespace caravan::server {

class TouchAhead {
public:
    // Shorter writes are not worth it.
    static constexpr size_t least = size_t{1} << 20;
    // So far behind the end of what is being written: of a buffer that is never filled, no more than this is taken.
    static constexpr size_t ahead = size_t{32} << 20;

    TouchAhead() = default;
    ~TouchAhead();
    TouchAhead(const TouchAhead &) = delete;
    TouchAhead & operator=(const TouchAhead &) = delete;

    // This will be written soon. Its contents do not change. What was asked for before goes first if this lies behind it,
    // else it is left as it is.
    void expect(MutableBytes memory);
    // Before memory is freed: returns when none is touched any more.
    void stop();

private:
    void work();

    std::mutex mutex_;
    std::condition_variable changed_;
    MutableBytes expected_;
    bool touching_ = false, ending_ = false;
    bool works_ = true;  // on this system
    std::thread thread_;
};

}  // namespace caravan::server
