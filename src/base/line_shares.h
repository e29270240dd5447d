// A LineLimit that several share: no one of them can use up what all may have. Time is passed in.
#pragma once

#include <algorithm>
#include <string>
#include <unordered_map>

#include "base/line_limit.h"

namespace caravan {

class LineShares {
public:
    // All together, and each. A key is whoever causes lines: an address.
    LineShares(double burst, double per_second, double burst_each, double per_second_each)
        : all_(burst, per_second), burst_each_(burst_each), per_second_each_(per_second_each) {}

    bool admits(const std::string & key, TimePoint now) {
        // Checked first, so what is one too many of its own takes nothing from the others.
        const bool is_admitted = own(key, now).admits(now) && all_.admits(now);
        suppressed_ += is_admitted ? 0 : 1;
        return is_admitted;
    }
    // Lines that were taken, and not written after all.
    void give_back(const std::string & key, uint32_t lines) {
        if (const auto found = owns_.find(key); found != owns_.end()) {
            found->second.limit.give_back(lines);
        }
        all_.give_back(lines);
    }
    // Lines that were too many since this was asked last.
    uint64_t take_suppressed() { return std::exchange(suppressed_, 0); }
    // Room for up to `most` lines.
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
