#include "platform/process.h"

#include <fcntl.h>
#include <unistd.h>
#ifdef __linux__
#include <sys/prctl.h>
#endif

#include <cerrno>

#include "base/formatted.h"
#include "platform/file.h"

extern char ** environ;

namespace caravan::platform {
namespace {

#ifdef O_PATH
constexpr int open_to_execute = O_PATH | O_CLOEXEC;
#else
constexpr int open_to_execute = O_RDONLY | O_CLOEXEC;
#endif

}  // namespace

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

Result<UniqueFd> open_program(const std::filesystem::path & path) {
    UniqueFd file(::open(path.c_str(), open_to_execute));
    if (!file || !may_execute(path)) {
        return fail(Errc::not_found, "{}", errno_text(errno));
    }
    return file;
}

std::string path_of(Descriptor file) { return formatted("/proc/self/fd/{}", file); }

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
