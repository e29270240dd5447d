// Wakes a thread that sleeps in poll(): an eventfd on Linux, a pipe elsewhere.
#pragma once

#include "base/error.h"
#include "platform/unique_fd.h"

namespace caravan::platform {

class Waker {
public:
    static Result<Waker> make();

    SocketHandle fd() const { return read_end_.get(); }  // readable after wake(), until clear()
    void wake() const;                                   // any thread, never blocks
    void clear() const;

private:
    Waker(UniqueFd read_end, UniqueFd write_end) : read_end_(std::move(read_end)), write_end_(std::move(write_end)) {}

    UniqueFd read_end_, write_end_;  // an eventfd serves as both and is in read_end_
};

}  // namespace caravan::platform
