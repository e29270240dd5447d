// The plug-in's C API (include/caravan.h), over Registry.
#pragma once

#include "caravan.h"

namespace caravan::client {

const caravan_api_v1 & api_v1();

}  // namespace caravan::client
