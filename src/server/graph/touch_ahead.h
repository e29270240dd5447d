// Makes the pages of a buffer resident on a thread of its own, ahead of the session's writes. The first write to a new page
// costs the kernel more time than copying the bytes does.
//
// Only the session's thread calls the functions.
#pragma once

#include <condition_variable>
#include <mutex>
#include <thread>

#include "base/bytes.h"

namespace caravan::server {

class TouchAhead {
public:
    TouchAhead() = default;
    ~TouchAhead();
    TouchAhead(const TouchAhead &) = delete;
    TouchAhead & operator=(const TouchAhead &) = delete;

    // Requests that `memory` be made resident. Its contents do not change. A pending request is extended if `memory` follows
    // it directly, and replaced otherwise.
    void expect(MutableBytes memory);
    // Cancels the pending request and waits for the thread. Call it before the memory is freed.
    void stop();

private:
    void work();

    std::mutex mutex_;
    std::condition_variable changed_;
    MutableBytes expected_;
    bool touching_ = false, stopping_ = false;
    bool supported_ = true;  // by this kernel
    std::thread thread_;
};

}  // namespace caravan::server
