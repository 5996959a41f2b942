#include "mp/examples/hash_files.h"

#include <atomic>
#include <filesystem>
#include <string>
#include <thread>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "absl/strings/str_cat.h"
#include "absl/time/clock.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/examples/files_test_util.h"
#include "mp/examples/worker_test_util.h"
#include "mp/pool/worker_died.h"
#include "mp/testing/status_matchers.h"

namespace mp::examples {
namespace {

using ::testing::AllOf;
using ::testing::Each;
using ::testing::HasSubstr;
using ::testing::StartsWith;

namespace fs = std::filesystem;

class HashFilesTest : public FilesTest {
 protected:
  File Write(const std::string& name, const std::string& text) const {
    return {FilesTest::Write(name, text), text.size()};
  }
};

// What the calls of on_result say, one line for each.
std::vector<std::string> Here(const std::vector<File>& files) {
  std::vector<std::string> lines;
  HashHere(files, {.on_result = [&](const File& file, const auto& digest) {
             lines.push_back(absl::StrCat(
                 file.path, " ",
                 digest.ok() ? *digest : digest.status().ToString()));
           }});
  return lines;
}

absl::StatusOr<std::vector<std::string>> InPool(const std::vector<File>& files,
                                                HashOptions options) {
  std::vector<std::string> lines;
  options.on_result = [&](const File& file, const auto& digest) {
    lines.push_back(absl::StrCat(
        file.path, " ", digest.ok() ? *digest : digest.status().ToString()));
  };
  if (absl::Status status = HashInPool(files, options); !status.ok()) {
    return status;
  }
  return lines;
}

TEST_F(HashFilesTest, PoolGivesTheSameAsOneProcessInTheSameOrder) {
  std::vector<File> files = {Write("large", std::string(3'000'000, 'x'))};
  for (int i = 0; i < 300; ++i) {
    files.push_back(Write(absl::StrCat(i), std::string(i, 'a')));
  }
  files.insert(files.begin() + 100, {{"missing", 7}, {"/proc/self/mem", 0}});
  files.push_back(files[0]);
  const std::vector<std::string> expected = Here(files);
  EXPECT_THAT(expected[100], StartsWith("missing NOT_FOUND: cannot open"));
  EXPECT_THAT(expected[101], HasSubstr("cannot read: Input/output error"));
  for (const int processes : {1, 3}) {
    ASSERT_OK_AND_ASSIGN(const std::vector<std::string> lines,
                         InPool(files, {.processes = processes}));
    EXPECT_EQ(lines, expected) << processes;
  }
}

TEST_F(HashFilesTest, NothingToHash) {
  ASSERT_OK_AND_ASSIGN(const std::vector<std::string> lines, InPool({}, {}));
  EXPECT_EQ(lines, std::vector<std::string>());
}

TEST_F(HashFilesTest, KilledWorkersChangeNothing) {
  const std::vector<File> files(32, Write("a", std::string(2'000'000, 'x')));
  std::vector<std::string> warnings;
  // Whether a worker is in a task when it is killed is up to chance.
  while (warnings.empty()) {
    std::atomic<bool> done = false;
    std::thread killer([&] {
      for (absl::Duration pause = absl::Milliseconds(5); !done; pause *= 1.5) {
        absl::SleepFor(pause);
        KillFirstWorker();
      }
    });
    const absl::StatusOr<std::vector<std::string>> lines =
        InPool(files, {.processes = 2, .on_warning = [&](const auto& text) {
                         warnings.push_back(text);
                       }});
    done = true;
    killer.join();
    ASSERT_OK(lines);
    ASSERT_EQ(*lines, Here(files));
  }
  EXPECT_THAT(warnings,
              Each(AllOf(StartsWith("warning: worker died"),
                         HasSubstr("SIGKILL"), HasSubstr("a is read again"))));
}

// The others are not affected.
TEST_F(HashFilesTest, GivesUpOnAFileIfEveryWorkerDies) {
  // A file that takes long.
  const File large = Write("large", "");
  fs::resize_file(large.path, uint64_t{16} << 30);
  const std::vector<File> files = {Write("a", "a"), large, Write("b", "b")};
  std::atomic<bool> large_is_next = false;
  std::atomic<bool> large_is_done = false;
  std::thread killer([&] {
    while (!large_is_next) absl::SleepFor(absl::Milliseconds(1));
    // Long enough, in the end, for a worker to begin it on a slow machine.
    for (absl::Duration pause = absl::Milliseconds(5); !large_is_done;
         pause *= 1.05) {
      absl::SleepFor(pause);
      KillFirstWorker();
    }
  });
  std::vector<absl::StatusOr<std::string>> digests;
  const absl::Status status = HashInPool(
      files,
      {.processes = 1, .on_result = [&](const File&, const auto& digest) {
         digests.push_back(digest);
         large_is_next = digests.size() == 1;
         large_is_done = digests.size() >= 2;
       }});
  large_is_next = large_is_done = true;
  killer.join();
  ASSERT_OK(status);
  ASSERT_EQ(digests.size(), 3U);
  EXPECT_OK(digests[0]);
  EXPECT_OK(digests[2]);
  EXPECT_TRUE(mp::IsWorkerDied(digests[1].status())) << digests[1].status();
}

TEST_F(HashFilesTest, RefusesAnAbsurdPool) {
  EXPECT_THAT(InPool({}, {.processes = -1}),
              testing::StatusIs(absl::StatusCode::kInvalidArgument));
}

}  // namespace
}  // namespace mp::examples
