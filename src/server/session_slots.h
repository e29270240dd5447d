// Which address may begin another session: no address alone can hold all of them, and who holds few comes before who holds
// many. A policy: no I/O. One thread.
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
    // `max_per_address` below `max_sessions`: the last slot is kept for an address that holds none.
    SessionSlots(size_t max_sessions, size_t max_per_address);

    // The addresses of the sessions that are served now, one for each session.
    void set_held(const std::vector<std::string> & addresses);
    // `address` has been given a session, which the next set_held() contains.
    void note_begun(const std::string & address);

    enum class Verdict {
        free,
        server_full,   // or only the slot is left that is kept for other addresses
        address_full,  // it holds max_per_address
    };
    Verdict verdict(const std::string & address) const;

    size_t held() const { return held_; }
    size_t held_by(const std::string & address) const;

    // The order in which waiting clients are served: `waiting` has the address of each, in the order of their arrival. Gives
    // positions in `waiting`. Addresses take turns: first who holds fewest, then whose last session began longest ago.
    std::vector<size_t> order(const std::vector<std::string> & waiting) const;

private:
    const size_t max_sessions_, max_per_address_;
    size_t held_ = 0;
    std::unordered_map<std::string, size_t> by_address_;
    std::unordered_map<std::string, uint64_t> last_begun_;  // a count of sessions, not a time
    uint64_t begun_ = 0;
};

}  // namespace caravan::server
