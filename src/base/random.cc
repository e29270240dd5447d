#include "base/random.h"

#include <random>

namespace caravan {

uint64_t random_token() {
    std::random_device random;
    for (;;) {
        if (const uint64_t token = uint64_t{random()} << 32 | random(); token != 0) {
            return token;
        }
    }
}

}  // namespace caravan
