#include "bench/child.h"

#include <array>
#include <string_view>

#include "base/formatted.h"
#include "platform/child_process.h"
#include "platform/file.h"
#include "platform/poll.h"
#include "platform/process.h"

namespace caravan::bench {
namespace {

constexpr size_t max_last_lines = 4;

std::vector<std::string> environment_with(const Environment & changes) {
    std::vector<std::string> out = platform::environment();
    std::erase_if(out, [&](const std::string & entry) { return changes.contains(entry.substr(0, entry.find('='))); });
    for (const auto & [name, value] : changes) {
        if (!value.empty()) {
            out.push_back(name + "=" + value);
        }
    }
    return out;
}

// Appends available bytes. Returns false at the end of the file.
bool read_more(Descriptor file, std::string & to) {
    std::array<char, 16384> piece;
    const auto got = platform::read_some(file, mutable_bytes(piece.data(), piece.size()));
    to.append(piece.data(), got.value_or(0));
    return got.value_or(0) > 0;
}

void cut_lines(std::string & rest, std::vector<Child::Line> & lines) {
    const TimePoint now = Clock::now();
    for (size_t end; (end = rest.find('\n')) != rest.npos; rest.erase(0, end + 1)) {
        lines.push_back({now, rest.substr(0, end)});
    }
}

}  // namespace

std::string Child::last_lines() const {
    std::string out;
    for (size_t i = err.size() - std::min(err.size(), max_last_lines); i < err.size(); ++i) {
        out += (out.empty() ? "" : " | ") + err[i].text;
    }
    return out;
}

Result<Child> run_child(const std::vector<std::string> & argv, const Environment & changes, TimePoint deadline) {
    auto out = platform::make_pipe();
    auto err = platform::make_pipe();
    if (!out || !err) {
        return std::unexpected(out ? err.error() : out.error());
    }
    platform::HeldSignals signals;  // destroyed after the child has ended
    auto running =
        platform::ChildProcess::start(argv, environment_with(changes), out->write.get(), err->write.get(), signals);
    if (!running) {
        return fail(running.error().code, "cannot start {}: {}", argv[0], running.error().text);
    }
    out->write.reset();
    err->write.reset();
    Child child;
    std::string rest;
    while (out->read || err->read) {
        std::array<platform::Watch, 3> watched{{{signals.fd(), platform::readable, 0},
                                                {out->read.get(), platform::readable, 0},
                                                {err->read.get(), platform::readable, 0}}};
        if (const auto ready = platform::poll(watched, poll_timeout_ms(deadline)); !ready) {
            return fail(Errc::io, "cannot wait for {}: {}", argv[0], ready.error().text);
        }
        if (watched[0].revents != 0) {
            signals.take();
            return fail(Errc::closed, "ended by a signal");
        }
        if (Clock::now() >= deadline) {
            return fail(Errc::timed_out, "{} exceeded its time limit and was killed", argv[0]);
        }
        if (watched[1].revents != 0 && !read_more(out->read.get(), child.out)) {
            out->read.reset();
        }
        if (watched[2].revents != 0) {
            if (!read_more(err->read.get(), rest)) {
                err->read.reset();
                rest += rest.empty() ? "" : "\n";
            }
            cut_lines(rest, child.err);
        }
    }
    child.status = running->wait();
    return child;
}

}  // namespace caravan::bench
