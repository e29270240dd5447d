// Preloaded into a server by the tests: writes a line to stderr whenever the process creates compute pipelines of Vulkan.
// Declares the few types that it passes on, so it needs no headers.
#include <dlfcn.h>
#include <unistd.h>

#include <cstdint>
#include <cstdio>
#include <cstring>

namespace {

using Function = void (*)();
using Get = Function (*)(void* object, const char* name);
using Create = int (*)(void* device, uint64_t cache, uint32_t count, const void* infos, const void* allocator,
                       uint64_t* pipelines);
constexpr int out_of_host_memory = -1;

Create create = nullptr;

int count_and_create(void* device, uint64_t cache, uint32_t count, const void* infos, const void* allocator,
                     uint64_t* pipelines) {
  char line[80];
  const int size = std::snprintf(line, sizeof line, "pipelines: %u created in process %d\n", count, getpid());
  if (write(STDERR_FILENO, line, static_cast<size_t>(size)) != size) {
    return out_of_host_memory;
  }
  return create(device, cache, count, infos, allocator, pipelines);
}

// A back-end depends on the loader, not the program, so RTLD_NEXT does not find it.
Function find(const char* getter, void* object, const char* name) {
  static void* const loader = dlopen("libvulkan.so.1", RTLD_NOW);
  return loader == nullptr ? nullptr : reinterpret_cast<Get>(dlsym(loader, getter))(object, name);
}

Function replaced(Function found, const char* name) {
  if (found == nullptr || std::strcmp(name, "vkCreateComputePipelines") != 0) {
    return found;
  }
  create = reinterpret_cast<Create>(found);
  return reinterpret_cast<Function>(count_and_create);
}

}  // namespace

extern "C" {

[[gnu::visibility("default")]] Function vkGetDeviceProcAddr(void* device, const char* name) {
  return replaced(find("vkGetDeviceProcAddr", device, name), name);
}

[[gnu::visibility("default")]] Function vkGetInstanceProcAddr(void* instance, const char* name) {
  if (std::strcmp(name, "vkGetDeviceProcAddr") == 0) {
    return reinterpret_cast<Function>(vkGetDeviceProcAddr);
  }
  return replaced(find("vkGetInstanceProcAddr", instance, name), name);
}
}
