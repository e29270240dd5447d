#pragma once

#include "platform/log_output.h"
