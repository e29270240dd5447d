// How two Caravan peers recognize each other in the stock handshake, and the commands outside the two dialects: admission,
// RDMA set-up, links and resuming. Layouts only: no I/O.
//
// HELLO carries 24 capability bytes in both directions. Caravan fills them with a queue pair number of 0 (a stock peer
// reads "no RDMA" and ignores the rest), a magic number, feature bits and a token. A stock peer sends zeros. A peer uses
// the commands below only after both sides have sent the magic number and the feature bit.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "wire/stock.h"

namespace caravan::wire {

inline constexpr char extension_magic[8] = {'C', 'A', 'R', 'A', 'V', 'A', 'N', '1'};
inline constexpr uint32_t feature_rdma = 1;       // built with RDMA, and RDMA is not disabled
inline constexpr uint32_t feature_native = 2;     // the native dialect: native.h
inline constexpr uint32_t feature_resume = 4;     // records: sessions and links outlive their connections
inline constexpr uint32_t feature_admission = 8;  // ADMISSION
inline constexpr uint32_t feature_only_rdma = 16;  // this end ends sessions that do not use RDMA
inline constexpr uint32_t feature_confirm = 32;    // a client confirms each place in the queue
inline constexpr uint32_t feature_rails = 64;      // RDMA_RAILS: several queue pairs in a session
inline constexpr uint32_t feature_shared_memory = 128;  // links of groups may use memory of one machine: shared_memory.h

#pragma pack(push, 1)

struct Extension {
    uint32_t qpn = 0;
    char magic[8] = {'C', 'A', 'R', 'A', 'V', 'A', 'N', '1'};
    uint32_t features = 0;
    // From a client: the session to link with (INVITE in native.h) or to resume; 0 for a new session.
    // From a server: the token of the session that may begin on this connection.
    uint64_t token = 0;

    bool is_caravan() const {
        return qpn == 0 && std::memcmp(magic, extension_magic, sizeof magic) == 0;
    }
};
static_assert(sizeof(Extension) == 24);

// Client to server, as the first command of a session. No payload. The server replies at once and again whenever the
// client's place in the queue changes. The last reply admits the client: a worker process then owns the connection.
// If both ends announce feature_confirm, the client sends ADMISSION again after each reply but the last, and the server sends
// no further reply before that arrives: a silent client gets no session.
inline constexpr Command command_admission{135};
struct AdmissionReply {
    enum class Reason : uint32_t {
        starting = 0,      // a worker process is being started
        server_full = 1,   // --max-sessions
        address_full = 2,  // --max-per-address
    };
    uint32_t position;  // in the queue, counted from 1; 0: admitted
    Reason reason;      // why the client waits; meaningless if position is 0
    uint32_t sessions;  // number of sessions on the server now
};
static_assert(sizeof(AdmissionReply) == 12);

// Client to server, in the stock frame: offers a queue pair. The server connects its own to it and replies, or declines.
inline constexpr Command command_rdma_offer{128};
inline constexpr size_t queue_pair_facts_size = 40;
struct RdmaOffer {
    std::byte queue_pair[queue_pair_facts_size];
};
struct RdmaReply {
    uint8_t accepted;
    std::byte queue_pair[queue_pair_facts_size];
    char reason[191];  // why the server declined
};
static_assert(sizeof(RdmaReply) == 232);

// The same with several queue pairs, in place of RDMA_OFFER, if both ends announce feature_rails. The server connects one of
// its own to each that it accepts; it accepts none without the first.
inline constexpr Command command_rdma_rails{136};
inline constexpr uint32_t max_rails = 4;
struct RdmaRails {
    uint32_t count;  // 1 to max_rails
    std::byte queue_pairs[max_rails][queue_pair_facts_size];
};
static_assert(sizeof(RdmaRails) == 164);
struct RdmaRailsReply {
    uint8_t accepted;  // a bit for each offered queue pair; 0: declined
    std::byte queue_pairs[max_rails][queue_pair_facts_size];
    char reason[191];  // why the server declined
};
static_assert(sizeof(RdmaRailsReply) == 352);

// Whether a first command of that form begins the switch to RDMA.
constexpr bool is_rdma_offer(Command command, uint64_t size) {
    return (command == command_rdma_offer && size == sizeof(RdmaOffer)) ||
           (command == command_rdma_rails && size == sizeof(RdmaRails));
}

// Null for commands other than these two; else the command's name and its only valid payload size.
struct RdmaOfferForm {
    const char * name;
    size_t size;
};
constexpr RdmaOfferForm form_of_rdma_offer(Command command) {
    return command == command_rdma_offer   ? RdmaOfferForm{"RDMA_OFFER", sizeof(RdmaOffer)}
           : command == command_rdma_rails ? RdmaOfferForm{"RDMA_RAILS", sizeof(RdmaRails)}
                                           : RdmaOfferForm{nullptr, 0};
}

// Client to server, after the exchange of tokens over RDMA. No reply.
inline constexpr Command command_rdma_verdict{129};
struct RdmaVerdict {
    uint8_t use_rdma;  // 0: the session continues over TCP; 1: over RDMA; after RDMA_RAILS, a bit for each queue pair used
};

// Server to server, as the first command on a link, after RDMA negotiation if there is any. No payload. Reply: u8 1.
inline constexpr Command command_link{130};

// Client to server, as the first command of a resumable session, after RDMA negotiation if there is any. No payload, no
// reply.
inline constexpr Command command_records{133};

// With feature_resume on both sides, sessions (after RECORDS) and links (after LINK) are sent as records in both
// directions. A record is this header and `length` bytes of the stream.
struct RecordHeader {
    uint32_t length;        // bytes; 0: a standalone acknowledgement
    uint32_t check;         // checksum: record_check.h
    uint64_t acknowledged;  // total bytes of the opposite direction consumed by the application since the session began
};
static_assert(sizeof(RecordHeader) == 16);
inline constexpr uint32_t max_record = 256 * 1024;
// The checksum covers the data of records up to this length. Longer records carry mostly weights.
inline constexpr uint32_t max_checked_record = 32 * 1024;
// Upper bound on unacknowledged bytes in one direction.
inline constexpr uint64_t resume_window = 8 << 20;

// The first command on a new connection with the token of a session or link whose connection broke. Records follow the
// reply. Each side retransmits from the position that the other one has received.
inline constexpr Command command_resume{132};
struct ResumeRequest {
    uint64_t received;  // as RecordHeader::acknowledged
    uint32_t attempt;   // counted from 1; the server ignores an attempt that arrives after a later one
};
struct ResumeReply {
    uint64_t received;
};

// The only command on a second connection with the token of a session. No payload, no reply. The connection stays open
// until the client process exits, so the server can tell an exit from a network failure. A reset of the session's
// connection means either: the kernel also resets connections on which a process left data unread.
inline constexpr Command command_lifeline{134};

// Describes one device. Payload: DeviceRequest.
inline constexpr Command command_device_facts{131};
struct DeviceFactsReply {
    char name[64];
    char description[128];
    uint32_t type;  // ggml_backend_dev_type
    uint32_t unused[15];
};
static_assert(sizeof(DeviceFactsReply) == 256);

#pragma pack(pop)

}  // namespace caravan::wire
