#include "mp/examples/find_files.h"

#include <sys/stat.h>
#include <unistd.h>

#include <filesystem>
#include <string>
#include <utility>
#include <vector>

#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/examples/files_test_util.h"

namespace mp::examples {
namespace {

using ::testing::ElementsAre;
using ::testing::IsEmpty;
using ::testing::Pair;
using ::testing::UnorderedElementsAre;

namespace fs = std::filesystem;

// A folder of its own for each test.
class FindFilesTest : public FilesTest {
 protected:
};

TEST_F(FindFilesTest, FindsRegularFilesInFolders) {
  Write("tree/a", "12345");
  Write("tree/b/c/d", "123");
  Write("tree/empty", "");
  fs::create_symlink(Path("tree/a"), Path("tree/link"));
  fs::create_directory_symlink(Path("tree"), Path("tree/b/loop"));
  ASSERT_EQ(mkfifo(Path("tree/pipe").c_str(), 0600), 0);

  const FoundFiles found = FindFiles({Path("tree"), Path("tree/a")});
  std::vector<std::pair<std::string, uint64_t>> files;
  for (const File& file : found.files) files.push_back({file.path, file.size});
  EXPECT_THAT(files, UnorderedElementsAre(
                         Pair(Path("tree/a"), 5), Pair(Path("tree/b/c/d"), 3),
                         Pair(Path("tree/empty"), 0), Pair(Path("tree/a"), 5)));
  EXPECT_EQ(found.bytes, 5U + 3 + 5);
  EXPECT_THAT(found.skipped, IsEmpty());
}

TEST_F(FindFilesTest, ReportsWhatIsNotThere) {
  Write("a", "text");
  fs::create_symlink(Path("a"), Path("link"));
  EXPECT_THAT(FindFiles({Path("missing"), Path("link"), "/dev/null"}).skipped,
              ElementsAre(Pair("/dev/null", "neither a file nor a folder"),
                          Pair(Path("link"), "neither a file nor a folder"),
                          Pair(Path("missing"), "No such file or directory")));
}

TEST_F(FindFilesTest, ReportsFoldersThatCannotBeListed) {
  Write("tree/closed/file", "text");
  Write("tree/file", "text");
  fs::permissions(Path("tree/closed"), fs::perms::none);
  const FoundFiles found = FindFiles({Path("tree")});
  fs::permissions(Path("tree/closed"), fs::perms::owner_all);
  if (geteuid() == 0) {
    EXPECT_EQ(found.files.size(), 2U) << "root may read everything";
  } else {
    EXPECT_EQ(found.files.size(), 1U);
    EXPECT_THAT(found.skipped,
                ElementsAre(Pair(Path("tree/closed"), "Permission denied")));
  }
}

}  // namespace
}  // namespace mp::examples
