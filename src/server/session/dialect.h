// The commands of one dialect in one session. Used by the session's thread only.
#pragma once

#include <cstdint>

#include "base/error.h"
#include "wire/stock.h"

namespace caravan::server {

class Dialect {
public:
    virtual ~Dialect() = default;

    // The name and the payload sizes of a command. low > high if the command does not exist.
    virtual const char * name_of(wire::Command command) const = 0;
    virtual wire::PayloadBounds bounds_of(wire::Command command) const = 0;
    // True if the command may overtake FINDs: it may be served before earlier FINDs have their replies (weight_lookups.h).
    virtual bool may_overtake_finds(wire::Command command) const = 0;

    // Serves one command with a payload of `size` bytes, which must be within bounds_of(). An error ends the session.
    virtual Result<> serve(wire::Command command, uint64_t size) = 0;

    // Drops graphs that use `buffer`, which is about to be freed. No graph may be running.
    virtual void drop_graphs_using(uint64_t buffer) = 0;
};

}  // namespace caravan::server
