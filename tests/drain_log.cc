// Preloaded into llama.cpp's tools by the tests. They print from a thread that they do not wait for at exit, so on a busy
// machine the end of their output can be lost, with and without RPC. This waits until all other threads sleep, at most 5 s.
#include <dirent.h>
#include <unistd.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace {

bool others_sleep() {
  const int self = gettid();
  DIR* threads = opendir("/proc/self/task");
  if (threads == nullptr) {
    return true;
  }
  bool sleep = true;
  while (const dirent* entry = readdir(threads)) {
    const int id = std::atoi(entry->d_name); // 0: . and ..
    if (id == 0 || id == self) {
      continue;
    }
    char path[64], text[512];
    std::snprintf(path, sizeof path, "/proc/self/task/%d/stat", id);
    if (FILE* file = std::fopen(path, "re")) {
      text[std::fread(text, 1, sizeof text - 1, file)] = '\0';
      std::fclose(file);
      // The state follows the name: R also while it waits for a core, D for memory or a disk.
      const char* name_end = std::strrchr(text, ')');
      sleep = sleep && (name_end == nullptr || std::strncmp(name_end, ") S", 3) == 0);
    }
  }
  closedir(threads);
  return sleep;
}

struct AtExit {
  ~AtExit() {
    // Several times in a row: a thread may sleep for a moment between two lines.
    for (int i = 0, asleep = 0; i < 5000 && asleep < 5; i++) {
      usleep(1000);
      asleep = others_sleep() ? asleep + 1 : 0;
    }
  }
} at_exit;

} // namespace
