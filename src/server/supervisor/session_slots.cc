#include "server/supervisor/session_slots.h"

#include <algorithm>
#include <tuple>

namespace caravan::server {
namespace {

constexpr size_t max_remembered = 4096;  // addresses in last_begun_

}  // namespace

SessionSlots::SessionSlots(size_t max_sessions, size_t max_per_address)
    : max_sessions_(max_sessions), max_per_address_(max_per_address) {}

void SessionSlots::set_held(const std::vector<std::string> & addresses) {
    held_ = addresses.size();
    by_address_.clear();
    for (const std::string & address : addresses) {
        ++by_address_[address];
    }
}

void SessionSlots::note_begun(const std::string & address) {
    ++held_;
    ++by_address_[address];
    if (last_begun_.size() >= max_remembered) {
        last_begun_.clear();  // all addresses then rank equal
    }
    last_begun_[address] = ++begun_;
}

size_t SessionSlots::held_by(const std::string & address) const {
    const auto found = by_address_.find(address);
    return found == by_address_.end() ? 0 : found->second;
}

SessionSlots::Verdict SessionSlots::verdict(const std::string & address) const {
    const size_t own = held_by(address);
    const bool keeps_one = max_per_address_ < max_sessions_ && own > 0;
    if (own >= max_per_address_) {
        return held_ >= max_sessions_ ? Verdict::server_full : Verdict::address_full;
    }
    return held_ + (keeps_one ? 1 : 0) >= max_sessions_ ? Verdict::server_full : Verdict::free;
}

std::vector<size_t> SessionSlots::order(const std::vector<std::string> & waiting) const {
    struct Place {
        size_t turn;  // sessions of its address, held and earlier in the queue
        uint64_t last_begun;
        size_t arrival;
        auto operator<=>(const Place &) const = default;
    };
    std::unordered_map<std::string, size_t> earlier;
    std::vector<Place> places;
    for (size_t i = 0; i < waiting.size(); ++i) {
        const auto last = last_begun_.find(waiting[i]);
        places.push_back({held_by(waiting[i]) + earlier[waiting[i]]++, last == last_begun_.end() ? 0 : last->second, i});
    }
    std::ranges::sort(places);
    std::vector<size_t> order;
    for (const Place & place : places) {
        order.push_back(place.arrival);
    }
    return order;
}

}  // namespace caravan::server
