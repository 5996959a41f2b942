#include "mp/examples/count_words.h"

#include <algorithm>
#include <atomic>
#include <map>
#include <string>
#include <thread>
#include <vector>

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
using ::testing::Le;
using ::testing::Pair;
using ::testing::SizeIs;
using ::testing::StartsWith;
using ::testing::UnorderedElementsAre;

class CountWordsTest : public FilesTest {
 protected:
  File Write(const std::string& name, const std::string& text) const {
    return {FilesTest::Write(name, text), text.size()};
  }
};

// About ten bytes for each of `count` words, of which `different` differ.
std::string Text(int count, int different) {
  std::string text;
  for (int i = 0; i < count; ++i) {
    for (int rest = i % different, k = 0; k < 8; ++k, rest /= 26) {
      text += static_cast<char>('a' + rest % 26);
    }
    text += i % 10 == 9 ? ",\n" : " ";
  }
  return text;
}

// The same file many times: much to count that takes little room.
std::vector<File> Copies(const File& file, int count) {
  return std::vector<File>(static_cast<size_t>(count), file);
}

TEST_F(CountWordsTest, CountsAndSkips) {
  std::vector<File> files = {Write("a", "one two, two"),
                             Write("b", "Two three"),
                             Write("empty", ""),
                             Write("binary", std::string("one\0two", 7)),
                             {"missing", 100}};
  files.push_back(files[0]);  // twice counts twice
  const Totals totals = CountHere(files);
  EXPECT_THAT(
      totals.counts.All(),
      UnorderedElementsAre(Pair("one", 2), Pair("two", 5), Pair("three", 1)));
  EXPECT_THAT(totals.skipped,
              UnorderedElementsAre(
                  Pair(files[3].path, "binary"),
                  Pair("missing", "cannot read: No such file or directory")));
  ASSERT_OK_AND_ASSIGN(const Totals pooled, CountInPool(files));
  EXPECT_TRUE(pooled == totals);
}

TEST_F(CountWordsTest, NothingToCount) {
  ASSERT_OK_AND_ASSIGN(const Totals totals, CountInPool({}));
  EXPECT_EQ(totals.counts.words(), 0U);
}

TEST_F(CountWordsTest, PoolGivesTheSameAsOneProcess) {
  std::vector<File> files = Copies(Write("large", Text(200'000, 5'000)), 3);
  for (int i = 0; i < 300; ++i) {
    files.push_back(Write(absl::StrCat(i), Text(i, 1 + i / 2)));
  }
  uint64_t bytes = 0;
  for (const File& file : files) bytes += file.size;
  for (const int processes : {1, 3}) {
    uint64_t done = 0;
    ASSERT_OK_AND_ASSIGN(
        const Totals totals,
        CountInPool(files, {.processes = processes,
                            .on_progress = [&](uint64_t n) { done += n; }}));
    EXPECT_TRUE(totals == CountHere(files)) << processes;
    EXPECT_EQ(done, bytes);
  }
}

// A worker stops when it has much to report, and the rest is a task again.
TEST_F(CountWordsTest, ManyDifferentWords) {
  const std::vector<File> files = {Write("a", Text(500'000, 500'000))};
  int tasks = 0;
  for (TaskCutter cutter(files, 1); !cutter.done(); cutter.Next()) ++tasks;
  int results = 0;
  ASSERT_OK_AND_ASSIGN(
      const Totals totals,
      CountInPool(files, {.processes = 1,
                          .on_progress = [&](uint64_t) { ++results; }}));
  EXPECT_EQ(totals.counts.different(), 500'000U);
  EXPECT_TRUE(totals == CountHere(files));
  EXPECT_GT(results, tasks);
}

// Larger than any result.
TEST_F(CountWordsTest, AWordOfMegabytes) {
  const std::string word(20'000'000, 'x');
  const std::vector<File> files = {Write("a", "a " + word + " b")};
  ASSERT_OK_AND_ASSIGN(const Totals totals,
                       CountInPool(files, {.processes = 2}));
  EXPECT_TRUE(totals == CountHere(files));
  EXPECT_EQ(totals.counts.letters(), word.size() + 2);
}

TEST_F(CountWordsTest, KilledWorkersChangeNothing) {
  const std::vector<File> files = Copies(Write("a", Text(200'000, 20'000)), 16);
  std::vector<std::string> warnings;
  CountOptions options;
  options.processes = 2;
  options.on_progress = [&](uint64_t) {
    if (warnings.empty()) KillFirstWorker();
  };
  options.on_warning = [&](const std::string& text) {
    warnings.push_back(text);
  };
  // Whether a worker is in a task when it is killed is up to chance.
  while (warnings.empty()) {
    ASSERT_OK_AND_ASSIGN(const Totals totals, CountInPool(files, options));
    ASSERT_TRUE(totals == CountHere(files));
  }
  EXPECT_THAT(warnings,
              Each(AllOf(StartsWith("warning: worker died"),
                         HasSubstr("SIGKILL"), HasSubstr("counted again"))));
}

TEST_F(CountWordsTest, GivesUpIfEveryWorkerDies) {
  const std::vector<File> files = Copies(Write("a", Text(200'000, 20'000)), 32);
  std::atomic<bool> done = false;
  std::thread killer([&] {
    // Long enough, in the end, for a worker to begin a task on a slow machine.
    for (absl::Duration pause = absl::Milliseconds(5); !done; pause *= 1.05) {
      absl::SleepFor(pause);
      KillFirstWorker();
    }
  });
  const absl::StatusOr<Totals> totals = CountInPool(files, {.processes = 1});
  done = true;
  killer.join();
  EXPECT_TRUE(mp::IsWorkerDied(totals.status())) << totals.status();
}

TEST_F(CountWordsTest, RefusesAnAbsurdPool) {
  EXPECT_THAT(CountInPool({}, {.processes = -1}),
              testing::StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST(TaskCutterTest, CutsEveryFileOnce) {
  std::vector<File> files = {{"large", 100'000'000}, {"empty", 0}};
  for (int i = 0; i < 1000; ++i) {
    files.push_back({absl::StrCat("small", i), 10'000});
  }
  std::map<std::string, uint64_t> seen;  // up to where
  std::vector<uint64_t> sizes;
  for (TaskCutter cutter(files, 2); !cutter.done();) {
    sizes.push_back(0);
    for (const FileRange& range : cutter.Next()) {
      EXPECT_EQ(range.begin, seen[range.path]) << range.path;
      seen[range.path] = range.end;
      sizes.back() += range.size();
    }
  }
  ASSERT_EQ(seen.size(), files.size());
  for (const File& file : files) EXPECT_EQ(seen[file.path], file.size);

  // A quarter of the whole, then less and less.
  EXPECT_EQ(sizes.front(), 27'500'000U);
  EXPECT_TRUE(std::is_sorted(sizes.rbegin(), sizes.rend()));
  EXPECT_GT(sizes.size(), 8U);
}

TEST(TaskCutterTest, BoundsTheTask) {
  const std::vector<File> huge = {{"huge", uint64_t{1} << 40}};
  EXPECT_EQ(TaskCutter(huge, 2).Next()[0].size(), uint64_t{64} << 20);

  const std::vector<File> many(1'000, {std::string(1000, 'x'), 1000});
  EXPECT_THAT(TaskCutter(many, 2).Next(), SizeIs(Le(300U)));
}

}  // namespace
}  // namespace mp::examples
