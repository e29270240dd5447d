// The ggml functions that the plug-in calls. They are those of the ggml that loads the plug-in, whatever its library is called:
// the plug-in is not linked with a ggml, which could put a second one into the process.
//
// Only in the plug-in. Tests and programs are linked with ggml instead.
#pragma once

#include "base/error.h"

namespace caravan::client {

// Binds the functions to the ggml of the library or program that contains `caller`, code of ggml, and of the libraries that it
// needs; else to the one that is visible to all libraries of the process. Call it before any other function of ggml. Later
// calls do nothing, or fail with Errc::unsupported if `caller` belongs to another ggml.
//
// Errc::not_found: there is no ggml. Errc::unsupported: it lacks a function. Thread-safe.
Result<> bind_ggml(const void * caller);

}  // namespace caravan::client
