#include "client/session/reply_reader.h"

#include <algorithm>
#include <array>

#include "base/printable.h"
#include "wire/native.h"

namespace caravan::client {
namespace {

constexpr size_t reply_header_size = sizeof(uint64_t);

// A server's text, for the log.
std::string printable_text(ConstBytes bytes) {
    return printable({reinterpret_cast<const char *>(bytes.data()), bytes.size()}, wire::max_error_text);
}

}  // namespace

void ReplyReader::make_absent(const PendingReply & reply) {
    std::ranges::fill(reply.dest, static_cast<std::byte>(reply.absent));
}

void ReplyReader::expect(PendingReply reply) {
    ++expected_;
    if (is_closed_) {
        make_absent(reply);
        completed_ = expected_;
    } else {
        pending_.push_back(std::move(reply));
    }
}

void ReplyReader::expect_deferred(size_t size) {
    expect(PendingReply{{}, size, false, true, Absent::nan});
    deferred_ = expected_;
}

bool ReplyReader::set_destination(MutableBytes dest, Absent absent) {
    const uint64_t number = std::exchange(deferred_, 0);
    if (number <= completed_) {
        std::ranges::fill(dest, static_cast<std::byte>(absent));
        return false;
    }
    PendingReply & reply = pending_[number - completed_ - 1];
    reply.dest = dest;
    reply.absent = absent;
    return true;
}

bool ReplyReader::discard() {
    if (deferred_ <= completed_) {
        deferred_ = 0;
        return false;
    }
    PendingReply & reply = pending_[deferred_ - completed_ - 1];
    reply.own.resize(reply.size);
    return set_destination(reply.own, Absent::nan);
}

bool ReplyReader::needs_destination() const {
    return !pending_.empty() && pending_.front().dest.size() != pending_.front().size && arrived_ == reply_header_size &&
           header_ >> wire::reply_kind_shift == 0;
}

std::optional<std::string> ReplyReader::take_launch_failure() {
    if (launch_failure_) {
        absent_until_ = expected_;
    }
    return std::exchange(launch_failure_, std::nullopt);
}

void ReplyReader::set_launch_failure(std::string text) {
    if (!launch_failure_) {
        launch_failure_ = std::move(text);
    }
}

void ReplyReader::close() {
    is_closed_ = true;
    std::ranges::for_each(pending_, make_absent);
    pending_.clear();
    completed_ = expected_;
}

Result<size_t> ReplyReader::receive(std::span<const MutableBytes> parts) {
    if (surplus_.empty()) {
        return receive_(parts);
    }
    size_t total = 0;
    for (const MutableBytes part : parts) {
        const size_t step = std::min(part.size(), surplus_.size() - total);
        std::copy_n(surplus_.begin() + static_cast<ptrdiff_t>(total), step, part.begin());
        total += step;
    }
    surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(total));
    return total;
}

Result<> ReplyReader::count_launch_failure(const std::string & text) {
    if (failed_launches_ == launches_) {
        return fail(Errc::protocol, "the server reported more failed launches than were sent: {}", text);
    }
    ++failed_launches_;
    set_launch_failure(text);
    return {};
}

// Receives a text that arrives instead of the first pending reply or before it, possibly with bytes that follow. False if it
// is incomplete.
Result<bool> ReplyReader::read_text_reply() {
    const PendingReply & reply = pending_.front();
    const auto kind = static_cast<wire::ReplyKind>(header_ >> wire::reply_kind_shift);
    const uint64_t size = header_ & wire::reply_size_mask;
    if (size > wire::max_error_text || kind > wire::ReplyKind::refused) {
        return fail(Errc::protocol, "malformed reply header");
    }
    // Bytes that were received into the reply's memory belong to the text and what follows it.
    const auto here = reply.dest.first(arrived_ - reply_header_size);
    surplus_.insert(surplus_.begin(), here.begin(), here.end());
    arrived_ = reply_header_size;
    if (surplus_.size() < size) {
        std::array<std::byte, wire::max_error_text> more;
        const std::array parts{MutableBytes(more).first(size - surplus_.size())};
        const auto got = receive_(parts);
        if (!got) {
            return std::unexpected(got.error());
        }
        surplus_.insert(surplus_.end(), more.begin(), more.begin() + static_cast<ptrdiff_t>(*got));
        if (surplus_.size() < size) {
            return false;
        }
    }
    const std::string text = printable_text(ConstBytes(surplus_).first(size));
    surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(size));
    arrived_ = 0;
    switch (kind) {
        case wire::ReplyKind::launch_failed:
            if (auto counted = count_launch_failure(text); !counted) {
                return std::unexpected(counted.error());
            }
            return true;
        case wire::ReplyKind::refused:
            if (!reply.may_be_refused) {
                return fail(Errc::protocol, "the server refused a request that cannot be refused: {}", text);
            }
            refusal_ = text;
            make_absent(reply);
            pending_.pop_front();
            ++completed_;
            return true;
        default: return fail(Errc::protocol, "the server ended the session: {}", text);
    }
}

std::optional<Error> ReplyReader::read_unsolicited() {
    std::array<std::byte, reply_header_size + wire::max_error_text> bytes;
    const std::array parts{MutableBytes(bytes).subspan(std::min(surplus_.size(), bytes.size()))};
    if (parts[0].empty()) {
        return std::nullopt;
    }
    const auto got = receive_(parts);
    if (!got) {
        return got.error();
    }
    surplus_.insert(surplus_.end(), parts[0].begin(), parts[0].begin() + static_cast<ptrdiff_t>(*got));
    while (surplus_.size() >= reply_header_size) {
        const auto header = load<uint64_t>(surplus_.data());
        const auto kind = static_cast<wire::ReplyKind>(header >> wire::reply_kind_shift);
        const uint64_t size = header & wire::reply_size_mask;
        const bool is_text = kind == wire::ReplyKind::launch_failed || kind == wire::ReplyKind::ended;
        if (!is_text || size > wire::max_error_text || surplus_.size() - reply_header_size < size) {
            return std::nullopt;
        }
        const std::string text = printable_text(ConstBytes(surplus_).subspan(reply_header_size, size));
        surplus_.erase(surplus_.begin(), surplus_.begin() + static_cast<ptrdiff_t>(reply_header_size + size));
        if (kind == wire::ReplyKind::ended) {
            return Error{Errc::protocol, "the server ended the session: " + text};
        }
        if (auto counted = count_launch_failure(text); !counted) {
            return counted.error();
        }
    }
    return std::nullopt;
}

ReplyReader::Progress ReplyReader::pull() {
    bool moved = false;
    while (wants_input()) {
        if (arrived_ == reply_header_size && header_ >> wire::reply_kind_shift != 0) {
            const auto is_read = read_text_reply();
            if (!is_read) {
                return {moved, is_read.error()};
            }
            if (!*is_read) {
                break;
            }
            moved = true;
            continue;
        }
        const MutableBytes dest = pending_.front().dest;
        const size_t size = pending_.front().size;
        std::array<MutableBytes, 2> parts;
        size_t count = 0;
        if (arrived_ < reply_header_size) {
            parts[count++] = mutable_bytes(&header_, reply_header_size).subspan(arrived_);
        }
        if (!dest.empty()) {
            parts[count++] = dest.subspan(arrived_ > reply_header_size ? arrived_ - reply_header_size : 0);
        }
        const auto got = receive(std::span(parts).first(count));
        if (!got) {
            return {true, got.error()};
        }
        if (*got == 0) {
            break;
        }
        moved = true;
        milestones_ += arrived_ == 0 ? 1 : 0;
        arrived_ += *got;
        if (arrived_ >= reply_header_size && header_ >> wire::reply_kind_shift != 0) {
            const auto is_read = read_text_reply();
            if (!is_read) {
                return {true, is_read.error()};
            }
            if (!*is_read) {
                break;
            }
            continue;
        }
        if (arrived_ >= reply_header_size && header_ != size) {
            return {true, Error{Errc::protocol, formatted("reply of {} bytes where {} were expected", header_, size)}};
        }
        if (arrived_ == reply_header_size + size) {
            ++completed_;
            ++milestones_;
            if (pending_.front().is_data && (launch_failure_ || completed_ <= absent_until_)) {
                make_absent(pending_.front());  // the result of a failed launch, or computed from one
            }
            pending_.pop_front();
            arrived_ = 0;
        }
    }
    return {moved, std::nullopt};
}

}  // namespace caravan::client
