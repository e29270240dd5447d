// GGML_RPC_TRACE=FILE: a timeline of this process and the servers that it used, on this process's clock, in Chrome's
// trace format (Perfetto opens it). Written whenever a session ends.
//
// Threads: any. Without the variable everything here costs one comparison.
#pragma once

#include <cstdint>
#include <mutex>
#include <string>
#include <string_view>
#include <vector>

namespace caravan::client {

class Trace {
public:
    static Trace & instance();

    bool is_on() const { return !file_.empty(); }
    static uint64_t now_ns();  // steady clock

    // A span of this process, towards the server at `endpoint`.
    void add_own(std::string_view name, const std::string & endpoint, uint64_t begin_ns, uint64_t end_ns);
    // A span of that server, in this process's time. Line 0 is that of its commands, n + 1 that of its device n.
    void add_remote(std::string_view name, const std::string & endpoint, size_t line, uint64_t begin_ns,
                    uint64_t end_ns);

    void write();

private:
    struct Span {
        std::string name;
        size_t process, line;
        uint64_t begin_ns, end_ns;
    };

    Trace();
    size_t number_of(const std::string & endpoint);
    void add(std::string_view name, size_t process, size_t line, uint64_t begin_ns, uint64_t end_ns);

    std::string file_;
    std::mutex mutex_;
    std::vector<std::string> endpoints_;
    std::vector<Span> spans_;
};

}  // namespace caravan::client
