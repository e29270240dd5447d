#pragma once

#include "platform/pages.h"
