#include "platform/process.h"

#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <cerrno>

extern char ** environ;

namespace caravan::platform {

Error become(const std::string & program, const std::vector<std::string> & arguments) {
    std::vector<std::string> words = arguments;
    std::vector<char *> argv;
    for (std::string & word : words) {
        argv.push_back(word.data());
    }
    argv.push_back(nullptr);
    ::execvp(program.c_str(), argv.data());
    return Error{Errc::not_found, errno_text(errno)};
}

std::filesystem::path program_path() {
    std::error_code unknown;
    return std::filesystem::read_symlink("/proc/self/exe", unknown);
}

void set_process_name([[maybe_unused]] const char * name) {
#ifdef __linux__
    ::prctl(PR_SET_NAME, name);
#endif
}

std::vector<std::string> environment() {
    std::vector<std::string> out;
    for (char ** entry = environ; *entry != nullptr; ++entry) {
        out.emplace_back(*entry);
    }
    return out;
}

}  // namespace caravan::platform
