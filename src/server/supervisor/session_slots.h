// The admission policy: which address may begin another session. No address can hold all slots, and addresses with fewer
// sessions come first. No I/O. Not thread-safe.
#pragma once

#include <cstddef>
#include <cstdint>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

namespace caravan::server {

class SessionSlots {
public:
    // If `max_per_address` is below `max_sessions`, the last slot is reserved for an address without a session.
    SessionSlots(size_t max_sessions, size_t max_per_address);

    // Sets the addresses of the current sessions, one entry for each session.
    void set_held(const std::vector<std::string> & addresses);
    // Records that `address` has begun a session. The next set_held() includes it.
    void note_begun(const std::string & address);

    enum class Verdict {
        free,
        server_full,   // or only the reserved slot is free, and the address has a session
        address_full,  // it holds max_per_address
    };
    Verdict verdict(const std::string & address) const;

    size_t held() const { return held_; }
    size_t held_by(const std::string & address) const;

    // The order in which waiting clients get sessions, as indices into `waiting`, which has the address of each client in order
    // of arrival. Addresses take turns: fewest sessions first, then the one whose last session began longest ago.
    std::vector<size_t> order(const std::vector<std::string> & waiting) const;

private:
    const size_t max_sessions_, max_per_address_;
    size_t held_ = 0;
    std::unordered_map<std::string, size_t> by_address_;
    std::unordered_map<std::string, uint64_t> last_begun_;  // value of begun_, not a time
    uint64_t begun_ = 0;
};

}  // namespace caravan::server
