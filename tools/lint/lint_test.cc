// Runs every rule of lint.h on the whole repository.

#include "mp/tools/lint/lint.h"

#include <filesystem>
#include <set>
#include <string>
#include <vector>

#include "gtest/gtest.h"

namespace mp::lint {
namespace {

// A test starts in the folder that holds its data, laid out as the repository.
std::vector<File> Repository() {
  return ReadTree(std::filesystem::current_path().string());
}

TEST(LintTest, RepositoryIsClean) {
  const std::vector<File> files = Repository();
  for (const File& file : files) {
    for (const Finding& finding : CheckFile(file)) {
      ADD_FAILURE() << ToString(finding);
    }
  }
  for (const Finding& finding : CheckCompanions(files)) {
    ADD_FAILURE() << ToString(finding);
  }
}

// The test above also passes when it is shown nothing.
TEST(LintTest, SeesTheRepository) {
  std::set<std::string> paths;
  for (const File& file : Repository()) paths.insert(file.path);
  for (const char* path : {"BUILD", "base/check.h", "base/BUILD", "tools/bazel",
                           "tools/lint/lint_test.cc"}) {
    EXPECT_TRUE(paths.contains(path)) << path;
  }
}

}  // namespace
}  // namespace mp::lint
