// The folders in which drivers keep kernels and shaders that they have compiled. Sessions with read-only access compiled for
// 47 s on an H200 (docs/gpu.md), so sessions with GPUs can write these folders, although a compromised worker can plant code
// for later sessions there.
#pragma once

#include <filesystem>
#include <set>
#include <string>
#include <vector>

namespace caravan::server {

// The folders of all drivers, whether or not they exist.
std::vector<std::filesystem::path> driver_caches();

// Creates the folders of these ggml back-ends: confined processes cannot. Returns a warning if the driver of a back-end can
// write none of its folders; empty otherwise.
std::string make_driver_caches(const std::set<std::string> & backends);

}  // namespace caravan::server
