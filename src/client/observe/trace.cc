#include "client/observe/trace.h"

#include <algorithm>
#include <chrono>
#include <fstream>

#include "base/environment.h"
#include "base/log.h"
#include "client/observe/stats.h"
#include "tunables/client.h"

namespace caravan::client {

Trace & Trace::instance() {
    static Trace & only = *new Trace();  // never destroyed: sessions may outlive static objects
    return only;
}

Trace::Trace() : file_(text_of(variable::trace)) {}

uint64_t Trace::now_ns() {
    return static_cast<uint64_t>(std::chrono::nanoseconds(std::chrono::steady_clock::now().time_since_epoch()).count());
}

size_t Trace::number_of(const std::string & endpoint) {
    const auto found = std::ranges::find(endpoints_, endpoint);
    if (found == endpoints_.end()) {
        endpoints_.push_back(endpoint);
        return endpoints_.size();
    }
    return static_cast<size_t>(found - endpoints_.begin()) + 1;
}

void Trace::add(std::string_view name, size_t process, size_t line, uint64_t begin_ns, uint64_t end_ns) {
    if (spans_.size() < tunable::max_trace_spans) {
        spans_.push_back({std::string(name), process, line, begin_ns, std::max(begin_ns, end_ns)});
    }
}

void Trace::add_own(std::string_view name, const std::string & endpoint, uint64_t begin_ns, uint64_t end_ns) {
    std::lock_guard lock(mutex_);
    add(name, 0, number_of(endpoint), begin_ns, end_ns);
}

void Trace::add_remote(std::string_view name, const std::string & endpoint, size_t line, uint64_t begin_ns,
                       uint64_t end_ns) {
    std::lock_guard lock(mutex_);
    add(name, number_of(endpoint), line, begin_ns, end_ns);
}

void Trace::write() {
    std::lock_guard lock(mutex_);
    std::ofstream out(file_);
    out << "{\"traceEvents\":[\n";
    out << R"({"name":"process_name","ph":"M","pid":0,"tid":0,"args":{"name":"client"}})";
    for (size_t i = 0; i < endpoints_.size(); ++i) {
        out << formatted(",\n{{\"name\":\"process_name\",\"ph\":\"M\",\"pid\":{},\"tid\":0,\"args\":{{\"name\":{}}}}}",
                         i + 1, json_string("server " + endpoints_[i]));
        out << formatted(",\n{{\"name\":\"thread_name\",\"ph\":\"M\",\"pid\":0,\"tid\":{},\"args\":{{\"name\":{}}}}}",
                         i + 1, json_string("to " + endpoints_[i]));
    }
    for (const Span & span : spans_) {
        out << formatted(",\n{{\"name\":\"{}\",\"ph\":\"X\",\"pid\":{},\"tid\":{},\"ts\":{:.3f},\"dur\":{:.3f}}}", span.name,
                         span.process, span.line, static_cast<double>(span.begin_ns) / 1000,
                         static_cast<double>(span.end_ns - span.begin_ns) / 1000);
    }
    out << "\n]}\n";
    if (!out.flush()) {
        log_error("GGML_RPC_TRACE: cannot write {}", file_);
    }
}

}  // namespace caravan::client
