// GGML_RPC_TRACE=FILE: a timeline of this process and its servers, on this process's clock, in Chrome's trace format
// (Perfetto opens it). The file is written whenever a session ends.
//
// Threads: any. Costs one comparison if the variable is not set.
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

    // A span of this process that concerns the server at `endpoint`.
    void add_own(std::string_view name, const std::string & endpoint, uint64_t begin_ns, uint64_t end_ns);
    // A span of that server, on this process's clock. Line 0 has its commands, line n + 1 its device n.
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
