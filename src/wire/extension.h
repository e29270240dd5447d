// How two Caravan peers recognize each other inside the stock handshake, and agree on RDMA.
//
// HELLO's 24 capability bytes, in both directions: a queue pair number of 0, which every stock peer reads as "no RDMA"
// and then ignores the rest, a magic, and feature bits. A stock peer answers zeroes. Only after both sides have shown
// the magic may the commands below be used. Layouts only.
#pragma once

#include <cstdint>

#include "base/bytes.h"
#include "wire/stock.h"

namespace caravan::wire {

inline constexpr char extension_magic[8] = {'C', 'A', 'R', 'A', 'V', 'A', 'N', '1'};
inline constexpr uint32_t feature_rdma = 1;    // built with RDMA and willing to try
inline constexpr uint32_t feature_native = 2;  // native.h
inline constexpr uint32_t feature_resume = 4;  // sessions and links outlive their connections: records, below
inline constexpr uint32_t feature_admission = 8;  // ADMISSION, below

#pragma pack(push, 1)

struct Extension {
    uint32_t qpn = 0;
    char magic[8] = {'C', 'A', 'R', 'A', 'V', 'A', 'N', '1'};
    uint32_t features = 0;
    // From a client, if not 0: it wants the session that this belongs to, for a link (native.h, INVITE) or to resume.
    // From a server: belongs to the session that may begin on this connection.
    uint64_t token = 0;

    bool is_caravan() const {
        return qpn == 0 && std::memcmp(magic, extension_magic, sizeof magic) == 0;
    }
};
static_assert(sizeof(Extension) == 24);

// From a client that wants a session, before anything else of it; no payload. Answers follow, each when something has
// changed, until one admits the client: then a worker process has the connection, and the session begins.
inline constexpr Command command_admission{135};
struct AdmissionAnswer {
    enum class Reason : uint32_t {
        starting = 0,      // a worker process is being started
        server_full = 1,   // --max-sessions
        address_full = 2,  // --max-per-address
    };
    uint32_t position;  // in the queue, from 1; 0: admitted
    Reason reason;      // to wait, if position is not 0
    uint32_t sessions;  // that the server has now
};
static_assert(sizeof(AdmissionAnswer) == 12);

// Client to server, framed like any stock command: my queue pair is ready, connect yours to it.
inline constexpr Command command_rdma_offer{128};
inline constexpr size_t queue_pair_facts_size = 40;
struct RdmaOffer {
    std::byte queue_pair[queue_pair_facts_size];
};
struct RdmaAnswer {
    uint8_t accepted;
    std::byte queue_pair[queue_pair_facts_size];
    char reason[191];  // if not accepted
};
static_assert(sizeof(RdmaAnswer) == 232);

// Client to server, after both have heard each other over RDMA (or not): 1 = the session goes on over RDMA, 0 = over
// TCP. No answer.
inline constexpr Command command_rdma_verdict{129};
struct RdmaVerdict {
    uint8_t use_rdma;
};

// From one server to another, as the first command on a link (after RDMA has been negotiated, if it is). No payload.
// Answer: u8 1.
inline constexpr Command command_link{130};

// From a client whose session is to be resumable, after RDMA has been negotiated (if it is). No payload, no answer.
inline constexpr Command command_records{133};

// With feature_resume on both sides, sessions (after RECORDS) and links (after LINK) are sent in records, in both
// directions: this header, then `length` bytes of the stream.
struct RecordHeader {
    uint32_t length;  // 0: nothing but the acknowledgement
    uint32_t check;   // record_check.h
    uint64_t acknowledged;  // bytes of the other direction's stream that were taken by whom they are for, ever
};
static_assert(sizeof(RecordHeader) == 16);
inline constexpr uint32_t max_record = 256 * 1024;
// The data of records up to this length is checked too. Longer ones carry weights, mostly.
inline constexpr uint32_t max_checked_record = 32 * 1024;
// No side sends more than this beyond what was acknowledged.
inline constexpr uint64_t resume_window = 8 << 20;

// The first command on a new connection with the token of a session or link whose connection broke. Records follow the
// answer, and each side sends again from where the other one says that it has got to.
inline constexpr Command command_resume{132};
struct ResumeRequest {
    uint64_t received;  // as RecordHeader::acknowledged
    uint32_t attempt;   // counts from 1: one that arrives late must not replace a later one
};
struct ResumeAnswer {
    uint64_t received;
};

// On a connection of its own, with the token of a session; no payload, no answer. The client's process closes it when it
// ends, whatever happens to the session's connection: a reset does not tell the network's failure from the client's end,
// since an operating system resets the connections of a process that left something unread.
inline constexpr Command command_lifeline{134};

// Of one device, which the payload names like that of GET_ALIGNMENT does.
inline constexpr Command command_device_facts{131};
struct DeviceFactsAnswer {
    char name[64];
    char description[128];
    uint32_t type;  // ggml's number
    uint32_t unused[15];
};
static_assert(sizeof(DeviceFactsAnswer) == 256);

#pragma pack(pop)

}  // namespace caravan::wire
