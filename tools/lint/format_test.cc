// Checks that clang-format-14 would change nothing. Other versions disagree on
// details, so this is a "manual" test, which .ci/run runs; `tools/setup lint`
// installs that version.

#include <fcntl.h>
#include <spawn.h>
#include <sys/wait.h>

#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

#include "gtest/gtest.h"
#include "mp/tools/lint/lint.h"

namespace mp::lint {
namespace {

// Whether clang-format would leave the file as it is.
bool IsFormatted(const std::string& path) {
  std::vector<std::string> command = {"clang-format-14", "--style=file",
                                      "--dry-run", "--Werror", path};
  std::vector<char*> argv;
  for (std::string& word : command) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t actions;
  posix_spawn_file_actions_init(&actions);
  posix_spawn_file_actions_addopen(&actions, 2, "/dev/null", O_WRONLY, 0);
  pid_t pid;
  const int error =
      posix_spawnp(&pid, argv[0], &actions, nullptr, argv.data(), environ);
  posix_spawn_file_actions_destroy(&actions);
  if (error != 0) {
    ADD_FAILURE() << "cannot start " << argv[0] << ": " << std::strerror(error)
                  << "; run tools/setup lint";
    return true;
  }
  int status = -1;
  EXPECT_EQ(waitpid(pid, &status, 0), pid);
  return status == 0;
}

TEST(FormatTest, ClangFormatChangesNothing) {
  ASSERT_TRUE(std::filesystem::exists(".clang-format"));
  int checked = 0;
  std::string wrong;
  for (const File& file : ReadTree(std::filesystem::current_path().string())) {
    if (!file.path.ends_with(".h") && !file.path.ends_with(".cc")) continue;
    ++checked;
    if (!IsFormatted(file.path)) wrong += " " + file.path;
    if (HasFailure()) return;
  }
  EXPECT_GT(checked, 0);
  EXPECT_EQ(wrong, "") << "run: clang-format-14 -i" << wrong;
}

}  // namespace
}  // namespace mp::lint
