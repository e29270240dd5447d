#include "server/supervisor/front_door.h"

#include <utility>

#include "base/config.h"
#include "base/printable.h"
#include "base/random.h"
#include "net/hello.h"
#include "net/refusal.h"
#include "net/socket.h"
#include "platform/socket.h"
#include "tunables/net.h"
#include "tunables/supervisor.h"
#include "wire/frame.h"
#include "wire/native.h"
#include "wire/stock_rdma.h"

namespace caravan::server {
namespace {

using platform::Moved;

using wire::Command;

constexpr size_t header_size = sizeof(wire::RequestHeader);

// device.text is "name: description".
wire::DeviceFactsReply facts_of(const ControlMessage & device) {
    wire::DeviceFactsReply out{};
    const std::string_view text = device.text;
    const size_t colon = std::min(text.find(": "), text.size());
    text.copy(out.name, std::min(colon, sizeof out.name - 1));
    if (colon < text.size()) {
        text.substr(colon + 2).copy(out.description, sizeof out.description - 1);
    }
    out.type = device.type;
    return out;
}

}  // namespace

FrontDoor::FrontDoor(UniqueFd socket, std::string peer, bool may_resume)
    : socket_(std::move(socket)),
      peer_(std::move(peer)),
      may_resume_(may_resume),
      deadline_(Clock::now() + tunable::handshake_timeout) {}

// Returns true once `size` bytes of the command have arrived. Reads no further bytes: the worker reads the rest.
Result<bool> FrontDoor::fill(size_t size) {
    while (size_ < size) {
        const Moved got = platform::receive_bytes(socket_.get(), MutableBytes(bytes_).subspan(size_, size - size_));
        switch (got.status) {
            case Moved::Status::some: break;
            case Moved::Status::would_block: return false;
            case Moved::Status::closed: return fail(Errc::closed, "left");
            default: return fail(Errc::closed, "left: {}", got.why());
        }
        if (size_ == 0) {
            deadline_ = Clock::now() + tunable::handshake_timeout;
        }
        size_ += got.bytes;
    }
    return true;
}

template <class Reply>
Result<> FrontDoor::send_reply(const Reply & payload) {
    const auto bytes = wire::reply_frame(payload);
    // A short write means that the peer violates the protocol: replies are small, and a client reads each one before it sends
    // the next request.
    if (platform::send_bytes(socket_.get(), bytes).bytes != bytes.size()) {
        return fail(Errc::closed, "does not read its replies");
    }
    return {};
}

template <class Reply>
Result<> FrontDoor::answer(const Reply & payload) {
    auto sent = send_reply(payload);
    size_ = 0;
    deadline_ = no_deadline;
    return sent;
}

// Whether the HELLO that was received has the queue pair of a stock client, and this server may use it.
bool FrontDoor::offers_stock_rdma() const {
    return wire::is_queue_pair(load<wire::StockRdma>(bytes_.data() + header_size)) &&
           transport_mode() != TransportMode::tcp && net::why_no_rdma().empty();
}

// Replies to a stock client as a stock server without RDMA does: with zero bytes in place of the extension.
Result<> FrontDoor::greet() {
    greeted_ = true;
    const auto extension = load<wire::Extension>(bytes_.data() + header_size);
    is_caravan_ = extension.is_caravan();
    token_ = is_caravan_ ? extension.token : 0;
    wire::HelloReply hello{wire::stock_major, wire::stock_minor, wire::stock_patch, 0, {}};
    if (is_caravan_) {
        wire::Extension own = net::own_extension();
        is_native_ = (extension.features & own.features & wire::feature_native) != 0;
        confirms_ = (extension.features & own.features & wire::feature_confirm) != 0;
        shares_memory_ = (extension.features & own.features & wire::feature_shared_memory) != 0;
        if (!may_resume_) {
            own.features &= ~wire::feature_resume;
        }
        resumes_ = (extension.features & own.features & wire::feature_resume) != 0;
        if (resumes_) {
            own.token = session_token_ = random_token();
        }
        store(hello.capabilities, own);
    }
    return answer(hello);
}

// Reads and discards input: to close a socket with unread bytes resets the connection, and the client may lose the reason.
Result<> FrontDoor::discard() {
    std::array<std::byte, 4096> bytes;
    for (int pieces = 0; pieces < 16; ++pieces) {
        const Moved got = platform::receive_bytes(socket_.get(), bytes);
        switch (got.status) {
            case Moved::Status::some: break;
            case Moved::Status::would_block: return {};
            case Moved::Status::closed: return fail(Errc::closed, "left after it was refused");
            default: return fail(Errc::closed, "left: {}", got.why());
        }
    }
    return {};
}

Result<> FrontDoor::refuse(std::string_view reason) {
    refusal_ = reason;
    deadline_ = Clock::now() + tunable::refusal_timeout;
    return send_refusal();
}

// Sends the refusal in reply to the first command other than an RDMA offer, whose reply has a format of its own.
Result<> FrontDoor::send_refusal() {
    if (!is_native_) {
        return fail(Errc::closed, "is refused: {}", refusal_);
    }
    while (!refusal_is_sent_) {
        const auto has_header = fill(header_size);
        if (!has_header || !*has_header) {
            return has_header ? Result<>() : std::unexpected(has_header.error());
        }
        const auto header = load<wire::RequestHeader>(bytes_.data());
        if (wire::is_rdma_offer(header.command, header.size)) {
            if (std::exchange(offer_is_declined_, true)) {
                return fail(Errc::protocol, "sent a second offer of RDMA");
            }
            const auto whole = fill(header_size + header.size);
            if (!whole || !*whole) {
                return whole ? Result<>() : std::unexpected(whole.error());
            }
            const auto decline = [&](auto no) {
                printable(refusal_, sizeof no.reason - 1).copy(no.reason, sizeof no.reason - 1);
                return answer(no);
            };
            const TimePoint deadline = deadline_;
            const bool is_one = header.command == wire::command_rdma_offer;
            if (auto done = is_one ? decline(wire::RdmaReply{}) : decline(wire::RdmaRailsReply{}); !done) {
                return done;
            }
            deadline_ = deadline;
            continue;
        }
        const auto message = net::refusal(refusal_, resumes_ && header.command == wire::command_records);
        if (platform::send_bytes(socket_.get(), const_bytes(message.data(), message.size())).bytes != message.size()) {
            return fail(Errc::closed, "does not read its replies");
        }
        refusal_is_sent_ = true;
        platform::stop_sending(socket_.get());
    }
    return discard();
}

Result<FrontDoor::Wants> FrontDoor::advance(const std::vector<ControlMessage> & devices, std::string_view outage) {
    if (is_refused()) {
        return send_refusal().transform([] { return Wants::more; });
    }
    for (int answered = 0; answered < tunable::commands_at_once; ++answered) {
        const auto has_header = fill(header_size);
        if (!has_header || !*has_header) {
            return has_header ? Result<Wants>(Wants::more) : std::unexpected(has_header.error());
        }
        if (wants_stock_rdma_) {
            return Wants::session;
        }
        const auto header = load<wire::RequestHeader>(bytes_.data());
        const Command command = header.command;
        if (!greeted_ && (command != Command::hello || header.size != sizeof(wire::HelloRequest))) {
            return fail(Errc::protocol, "did not begin with an RPC handshake");
        }
        if (greeted_ && !outage.empty() && token_ == 0) {
            return refuse(outage).transform([] { return Wants::more; });
        }
        if (token_ != 0 && command == wire::command_resume && header.size == sizeof(wire::ResumeRequest)) {
            // Reads the whole request: a close with unread bytes resets the connection, like a network fault.
            const auto whole = fill(header_size + sizeof(wire::ResumeRequest));
            if (!whole || !*whole) {
                return whole ? Result<Wants>(Wants::more) : std::unexpected(whole.error());
            }
        }
        if (is_caravan_ && (command == wire::command_rdma_offer || command == wire::command_rdma_rails ||
                            command == wire::command_records || wire::is_native(command) || token_ != 0)) {
            return Wants::session;
        }
        if (is_caravan_ && command == wire::command_admission && header.size == 0) {
            return Wants::session;
        }
        const bool about_facts = is_caravan_ && command == wire::command_device_facts;
        const wire::PayloadBounds bounds =
            about_facts ? wire::PayloadBounds{sizeof(wire::DeviceRequest), sizeof(wire::DeviceRequest)}
                        : wire::payload_bounds(command);
        if (bounds.low > bounds.high || (greeted_ && command == Command::hello)) {
            return fail(Errc::protocol, "sent command {} out of place", static_cast<unsigned>(command));
        }
        const bool about_device = about_facts || command == Command::get_alignment || command == Command::get_max_size ||
                                  command == Command::get_device_memory;
        if (greeted_ && command != Command::device_count && !about_device) {
            return Wants::session;
        }
        if (header.size != bounds.low) {
            return fail(Errc::protocol, "sent {} with a payload of {} bytes", wire::command_name(command),
                        static_cast<uint64_t>(header.size));
        }
        const auto whole = fill(header_size + bounds.low);
        if (!whole || !*whole) {
            return whole ? Result<Wants>(Wants::more) : std::unexpected(whole.error());
        }
        if (about_device && memory_device() >= devices.size()) {
            return fail(Errc::invalid_argument, "asked about device {}: there are {}", memory_device(), devices.size());
        }
        if (command == Command::hello && offers_stock_rdma()) {
            greeted_ = wants_stock_rdma_ = true;
            deadline_ = no_deadline;
            return Wants::session;
        }
        Result<> done;
        if (about_facts) {
            if (done = answer(facts_of(devices[memory_device()])); !done) {
                return std::unexpected(done.error());
            }
            continue;
        }
        switch (command) {
            case Command::hello: done = greet(); break;
            case Command::device_count: done = answer(static_cast<uint32_t>(devices.size())); break;
            case Command::get_alignment: done = answer(devices[memory_device()].alignment); break;
            case Command::get_max_size: done = answer(devices[memory_device()].max_size); break;
            default: return Wants::memory;
        }
        if (!done) {
            return std::unexpected(done.error());
        }
    }
    return Wants::more;
}

Command FrontDoor::first_command() const { return load<wire::RequestHeader>(bytes_.data()).command; }

uint32_t FrontDoor::memory_device() const { return load<uint32_t>(bytes_.data() + header_size); }

Result<> FrontDoor::answer_memory(uint64_t free, uint64_t total) {
    return answer(wire::DeviceMemoryReply{free, total});
}

Result<> FrontDoor::send_position(const wire::AdmissionReply & place) {
    if (first_command() != wire::command_admission) {
        return {};
    }
    auto sent = send_reply(place);
    if (sent && confirms_) {
        awaits_confirmation_ = true;
        is_confirmed_ = false;
        size_ = 0;  // receives ADMISSION again
    }
    return sent;
}

Result<> FrontDoor::read_confirmation() {
    const auto has_header = fill(header_size);
    if (!has_header || !*has_header) {
        return has_header ? Result<>() : std::unexpected(has_header.error());
    }
    const auto header = load<wire::RequestHeader>(bytes_.data());
    if (header.command != wire::command_admission || header.size != 0) {
        return fail(Errc::protocol, "sent command {} in place of a confirmation", static_cast<unsigned>(header.command));
    }
    awaits_confirmation_ = false;
    is_confirmed_ = true;
    return {};
}

}  // namespace caravan::server
