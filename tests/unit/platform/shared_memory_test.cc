#include "platform/shared_memory.h"

#include <fcntl.h>
#include <gtest/gtest.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <filesystem>

namespace caravan::platform {
namespace {

constexpr uint64_t size = 64 * 1024;

TEST(SharedMemory, CannotBeTruncated) {
    const auto memory = make_shared_memory(size);
    ASSERT_TRUE(memory) << memory.error().text;
    EXPECT_TRUE(check_shared_memory(memory->get(), size));
    EXPECT_FALSE(check_shared_memory(memory->get(), 2 * size));
    EXPECT_NE(::ftruncate(memory->get(), 0), 0);
    EXPECT_NE(::ftruncate(memory->get(), 2 * size), 0);
    EXPECT_NE(::fcntl(memory->get(), F_ADD_SEALS, F_SEAL_WRITE), 0) << "no seal can be added";
}

TEST(SharedMemory, AllMappingsHaveTheSameBytes) {
    const auto memory = make_shared_memory(size);
    const auto one = SharedMapping::map(memory->get(), size), other = SharedMapping::map(memory->get(), size);
    ASSERT_TRUE(one && other);
    one->bytes()[size - 1] = std::byte{7};
    EXPECT_EQ(other->bytes()[size - 1], std::byte{7});
    EXPECT_EQ(other->bytes()[0], std::byte{0});
}

TEST(SharedMemory, IsOpenedByAnotherProcess) {
    const auto memory = make_shared_memory(size);
    const auto mapped = SharedMapping::map(memory->get(), size);
    const ProcessId owner = own_process();
    const int number = memory->get();
    const ProcessId child = ::fork();
    if (child == 0) {
        ::close(number);
        const auto opened = open_shared_memory(owner, number, size);
        const auto there = opened.and_then([](const UniqueFd & fd) { return SharedMapping::map(fd.get(), size); });
        if (there) {
            there->bytes()[5] = std::byte{9};
        }
        ::_exit(there ? 0 : 1);
    }
    int status = -1;
    ::waitpid(child, &status, 0);
    EXPECT_EQ(status, 0);
    EXPECT_EQ(mapped->bytes()[5], std::byte{9});
}

TEST(SharedMemory, NothingElseIsOpened) {
    const UniqueFd file(::open("/proc/self/exe", O_RDONLY | O_CLOEXEC));
    EXPECT_EQ(open_shared_memory(own_process(), file.get(), size).error().code, Errc::not_found);
    EXPECT_EQ(open_shared_memory(own_process(), 100'000, size).error().code, Errc::unavailable);
    EXPECT_EQ(open_shared_memory(-1, 0, size).error().code, Errc::unavailable);
    // Of the same name, but not sealed, or of another size.
    const UniqueFd loose(::memfd_create("caravan-shared", MFD_CLOEXEC | MFD_ALLOW_SEALING));
    ASSERT_EQ(::ftruncate(loose.get(), size), 0);
    EXPECT_EQ(open_shared_memory(own_process(), loose.get(), size).error().code, Errc::invalid_argument);
    const auto memory = make_shared_memory(2 * size);
    EXPECT_EQ(open_shared_memory(own_process(), memory->get(), size).error().code, Errc::invalid_argument);
}

TEST(SharedMemory, BootIdIsKnown) {
    EXPECT_EQ(boot_id().size(), 36u);
    EXPECT_EQ(&boot_id(), &boot_id());
}

}  // namespace
}  // namespace caravan::platform
