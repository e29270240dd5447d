#include "net/faults.h"

#include <algorithm>
#include <array>
#include <atomic>
#include <charconv>
#include <mutex>
#include <optional>
#include <string_view>
#include <thread>
#include <vector>

#include "base/environment.h"
#include "base/log.h"

namespace caravan::net {
namespace {

enum class Kind { drop, delay, reset, truncate, corrupt };
constexpr std::array<std::string_view, 5> kinds{"drop", "delay", "reset", "truncate", "corrupt"};

struct Fault {
    Kind kind;
    uint64_t message = 0;
    uint64_t n = 0;
};

bool read_number(std::string_view text, uint64_t & number) {
    const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), number);
    return error == std::errc() && end == text.data() + text.size();
}

// "reset@12", "corrupt@12:5"
std::optional<Fault> parse(std::string_view text) {
    const size_t at = text.find('@'), colon = text.find(':');
    const auto kind = std::ranges::find(kinds, text.substr(0, at));
    if (kind == kinds.end() || at == text.npos) {
        return std::nullopt;
    }
    Fault fault{static_cast<Kind>(kind - kinds.begin())};
    const bool is_read = read_number(text.substr(at + 1, colon == text.npos ? colon : colon - at - 1), fault.message) &&
                         (colon == text.npos || read_number(text.substr(colon + 1), fault.n));
    return is_read ? std::optional(fault) : std::nullopt;
}

// The faults still to come in this process. Threads: any.
class Plan {
public:
    static Plan & instance() {
        static Plan & only = *new Plan();
        return only;
    }
    bool is_empty() const { return is_empty_; }

    // The fault of the next message, if any.
    std::optional<Fault> next() {
        std::lock_guard lock(mutex_);
        const auto found = std::ranges::find(faults_, sent_ + 1, &Fault::message);
        return found == faults_.end() ? std::nullopt : std::optional(*found);
    }
    // Counts that message once it was sent or failed.
    void count(bool is_fault) {
        std::lock_guard lock(mutex_);
        ++sent_;
        if (is_fault) {
            std::erase_if(faults_, [this](const Fault & fault) { return fault.message == sent_; });
        }
    }

private:
    Plan() {
        std::string_view rest = text_of(variable::fault);
        while (!rest.empty()) {
            const size_t comma = std::min(rest.find(','), rest.size());
            if (const auto fault = parse(rest.substr(0, comma))) {
                faults_.push_back(*fault);
            } else {
                log_error("GGML_RPC_FAULT: \"{}\" is not a fault; expected KIND@MESSAGE or KIND@MESSAGE:N",
                          rest.substr(0, comma));
            }
            rest.remove_prefix(std::min(comma + 1, rest.size()));
        }
        is_empty_ = faults_.empty();
    }

    std::mutex mutex_;
    std::vector<Fault> faults_;
    uint64_t sent_ = 0;
    bool is_empty_ = true;
};

class FaultyTransport final : public Transport {
public:
    explicit FaultyTransport(std::unique_ptr<Transport> inner) : inner_(std::move(inner)) {}

    Result<size_t> send(std::span<const ConstBytes> parts) override {
        if (broken_) {
            return cut();
        }
        const auto fault = Plan::instance().next();
        auto sent = fault ? send_faulty(*fault, parts) : inner_->send(parts);
        if (!sent || *sent > 0) {
            Plan::instance().count(fault.has_value());
        }
        return sent;
    }
    void lend(ConstBytes bytes) override { inner_->lend(bytes); }
    void end_loan() override { inner_->end_loan(); }
    Result<size_t> receive(std::span<const MutableBytes> parts) override {
        return broken_ ? cut() : inner_->receive(parts);
    }
    Result<bool> wait(Interest interest, TimePoint deadline, microseconds spin) override {
        if (broken_) {
            return std::unexpected(cut().error());
        }
        return inner_->wait(interest, deadline, spin);
    }
    void wake() override { inner_->wake(); }
    void break_off() override { inner_->break_off(); }
    TransportKind kind() const override { return inner_->kind(); }
    uint32_t queue_pairs() const override { return inner_->queue_pairs(); }

private:
    static Result<size_t> cut() { return fail(Errc::reset, "injected fault"); }

    Result<size_t> send_faulty(const Fault & fault, std::span<const ConstBytes> parts) {
        std::vector<std::byte> bytes;
        for (const ConstBytes part : parts.first(std::min(parts.size(), max_parts))) {
            bytes.insert(bytes.end(), part.begin(), part.end());
        }
        log_warning("injecting a fault: {} of message {} ({} bytes)", kinds[static_cast<size_t>(fault.kind)], fault.message,
                 bytes.size());
        switch (fault.kind) {
            case Kind::drop: return bytes.size();
            case Kind::delay: std::this_thread::sleep_for(milliseconds(fault.n)); break;
            case Kind::reset:
            case Kind::truncate: {
                const std::array some{ConstBytes(bytes).first(std::min<size_t>(fault.n, bytes.size()))};
                (void)inner_->send(some);
                broken_ = true;
                inner_->break_off();
                return cut();
            }
            case Kind::corrupt: bytes[fault.n % bytes.size()] ^= std::byte{1}; break;
        }
        const std::array whole{ConstBytes(bytes)};
        return inner_->send(whole);
    }

    const std::unique_ptr<Transport> inner_;
    std::atomic<bool> broken_ = false;
};

}  // namespace

std::unique_ptr<Transport> with_faults(std::unique_ptr<Transport> transport) {
    if (Plan::instance().is_empty()) {
        return transport;
    }
    return std::make_unique<FaultyTransport>(std::move(transport));
}

}  // namespace caravan::net
