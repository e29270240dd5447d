// A LineLimit shared by several keys: no key can use up the common limit. The caller passes the time in. Not thread-safe.
#pragma once

#include <algorithm>
#include <string>
#include <unordered_map>

#include "base/line_limit.h"

namespace caravan {

class LineShares {
public:
    // The common limit, and the limit of each key. A key is the cause of lines, such as an address.
    LineShares(double burst, double per_second, double burst_each, double per_second_each)
        : all_(burst, per_second), burst_each_(burst_each), per_second_each_(per_second_each) {}

    bool admits(const std::string & key, TimePoint now) {
        // The key's own limit is checked first: lines above it must not consume the common limit.
        const bool is_admitted = own(key, now).admits(now) && all_.admits(now);
        suppressed_ += is_admitted ? 0 : 1;
        return is_admitted;
    }
    // Returns tokens of lines that were taken and not written.
    void give_back(const std::string & key, uint32_t lines) {
        if (const auto found = owns_.find(key); found != owns_.end()) {
            found->second.limit.give_back(lines);
        }
        all_.give_back(lines);
    }
    // The number of suppressed lines since the previous call.
    uint64_t take_suppressed() { return std::exchange(suppressed_, 0); }
    // Takes tokens for up to `most` lines, and returns their number.
    uint32_t take(const std::string & key, uint32_t most, TimePoint now) {
        uint32_t taken = 0;
        while (taken < most && admits(key, now)) {
            ++taken;
        }
        return taken;
    }

private:
    static constexpr size_t max_keys = 4096;

    struct Own {
        LineLimit limit;
        TimePoint used;
    };
    LineLimit & own(const std::string & key, TimePoint now) {
        if (owns_.size() >= max_keys && !owns_.contains(key)) {
            owns_.erase(std::ranges::min_element(owns_, {}, [](const auto & entry) { return entry.second.used; }));
        }
        Own & own = owns_.try_emplace(key, Own{LineLimit(burst_each_, per_second_each_), now}).first->second;
        own.used = now;
        return own.limit;
    }

    LineLimit all_;
    const double burst_each_, per_second_each_;
    std::unordered_map<std::string, Own> owns_;
    uint64_t suppressed_ = 0;
};

}  // namespace caravan
