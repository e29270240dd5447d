#include "platform/shared_memory.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <fstream>
#include <string_view>

#include "base/formatted.h"

namespace caravan::platform {
namespace {

constexpr const char * name = "caravan-shared";
constexpr std::string_view link_of_memory = "/memfd:caravan-shared";  // what /proc shows
constexpr int seals = F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL;
// Missing in the headers of some distributions that run newer kernels: the memory can never be executed as a file.
constexpr unsigned no_exec = 8;

}  // namespace

Result<UniqueFd> make_shared_memory(uint64_t size) {
    UniqueFd memory(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING | no_exec));
    if (!memory) {
        memory.reset(::memfd_create(name, MFD_CLOEXEC | MFD_ALLOW_SEALING));  // an older kernel
    }
    // A page that cannot be allocated later would end the process that touches it.
    if (!memory || ::fallocate(memory.get(), 0, 0, static_cast<off_t>(size)) != 0 ||
        ::fcntl(memory.get(), F_ADD_SEALS, seals) != 0) {
        return fail(Errc::io, "cannot make {} bytes of shared memory: {}", size, errno_text(errno));
    }
    return memory;
}

Result<UniqueFd> open_shared_memory(ProcessId owner, Descriptor descriptor, uint64_t size) {
    const std::string path = formatted("/proc/{}/fd/{}", owner, descriptor);
    // To open another kind of file may block or have effects.
    char target[64];
    const ssize_t length = ::readlink(path.c_str(), target, sizeof target);
    if (length < 0) {
        return fail(Errc::unavailable, "cannot read {}: {}", path, errno_text(errno));
    }
    if (!std::string_view(target, static_cast<size_t>(length)).starts_with(link_of_memory)) {
        return fail(Errc::not_found, "{} is not shared memory", path);
    }
    UniqueFd memory(::open(path.c_str(), O_RDWR | O_CLOEXEC | O_NONBLOCK | O_NOCTTY));
    if (!memory) {
        return fail(Errc::unavailable, "cannot open {}: {}", path, errno_text(errno));
    }
    const auto good = check_shared_memory(memory.get(), size);
    return good ? Result<UniqueFd>(std::move(memory)) : std::unexpected(good.error());
}

Result<> check_shared_memory(Descriptor memory, uint64_t size) {
    struct stat facts {};
    if (::fstat(memory, &facts) != 0 || facts.st_size != static_cast<off_t>(size)) {
        return fail(Errc::invalid_argument, "the shared memory does not have {} bytes", size);
    }
    const int set = ::fcntl(memory, F_GET_SEALS);
    if (set < 0 || (set & seals) != seals) {
        return fail(Errc::invalid_argument, "the shared memory can be truncated");
    }
    return {};
}

Result<SharedMapping> SharedMapping::map(Descriptor memory, uint64_t size) {
    void * mapped = ::mmap(nullptr, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
    if (mapped == MAP_FAILED) {
        return fail(Errc::io, "cannot map shared memory: {}", errno_text(errno));
    }
    return SharedMapping(mutable_bytes(mapped, size));
}

SharedMapping::~SharedMapping() {
    if (!bytes_.empty()) {
        ::munmap(bytes_.data(), bytes_.size());
    }
}

const std::string & boot_id() {
    static const std::string id = [] {
        std::string text;
        std::getline(std::ifstream("/proc/sys/kernel/random/boot_id"), text);
        return text;
    }();
    return id;
}

}  // namespace caravan::platform
