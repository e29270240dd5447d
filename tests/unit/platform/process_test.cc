#include "platform/process.h"

#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>

#include "platform/spawn.h"
#include "support/temporary_folder.h"

namespace caravan::platform {
namespace {

TEST(OpenProgram, ExecutesTheFileThatWasOpenedAfterItsNameIsGone) {
    const test::TemporaryFolder folder;
    const auto path = folder.path() / "program";
    std::filesystem::copy_file("/bin/true", path);
    const auto file = open_program(path);
    ASSERT_TRUE(file) << file.error().text;
    std::filesystem::remove(path);
    const auto process = spawn({.program = path_of(file->get()), .arguments = {"program"}});
    ASSERT_TRUE(process) << process.error().text;
    EXPECT_TRUE(wait_for(*process).is_success());
}

TEST(OpenProgram, FailureIsTheSystemsReason) {
    const test::TemporaryFolder folder;
    EXPECT_EQ(open_program(folder.path() / "none").error().text, "No such file or directory");
    std::ofstream(folder.path() / "text") << "not a program";
    EXPECT_EQ(open_program(folder.path() / "text").error().text, "Permission denied");
}

}  // namespace
}  // namespace caravan::platform
