#include "mp/pool/task_pace.h"

#include <cstddef>
#include <cstdint>

#include "gtest/gtest.h"

namespace mp::pool_internal {
namespace {

constexpr uint32_t kMany = 1'000'000;
constexpr size_t kRoom = size_t{1} << 30;

TEST(TaskPaceTest, NoNapUntilThePaceIsKnown) {
  TaskPace pace;
  EXPECT_FALSE(pace.known());
  EXPECT_EQ(pace.Nap(kMany, kRoom), 0);
  pace.Learn(100'000, 20);
  EXPECT_TRUE(pace.known());
  EXPECT_GT(pace.Nap(kMany, kRoom), 0);
  pace.Forget();
  EXPECT_FALSE(pace.known());
  EXPECT_EQ(pace.Nap(kMany, kRoom), 0);
}

TEST(TaskPaceTest, WorkersHaveTwiceAsMuchToDo) {
  for (const int64_t each : {100, 1'000, 10'000, 100'000, 200'000}) {
    TaskPace pace;
    pace.Learn(1'000'000, static_cast<uint32_t>(1'000'000 / each));
    const int64_t nap = pace.Nap(kMany, kRoom);
    EXPECT_GE(nap, 100'000) << each;
    EXPECT_LE(nap, 1'000'000) << each;
    const auto enough = static_cast<uint32_t>(2 * nap / each);
    EXPECT_EQ(pace.Nap(enough, kRoom), nap) << each;
    EXPECT_EQ(pace.Nap(enough - 1, kRoom), 0) << each;
  }
}

TEST(TaskPaceTest, NoNapIfResultsAreRare) {
  TaskPace pace;
  pace.Learn(1'000'000, 2);
  EXPECT_EQ(pace.Nap(kMany, kRoom), 0);
}

TEST(TaskPaceTest, NoNapIfResultsHaveNoRoom) {
  TaskPace pace;
  pace.Learn(100'000, 100);  // 200 results for the shortest nap
  EXPECT_GT(pace.Nap(kMany, kRoom), 0) << "of a size that is not known";
  pace.LearnSize(1'000, 10);
  EXPECT_GT(pace.Nap(kMany, 20'000), 0);
  EXPECT_EQ(pace.Nap(kMany, 19'999), 0);
  pace.LearnSize(1'000'000, 1);
  EXPECT_GT(pace.Nap(kMany, 20'000), 0);
}

// Whatever was before.
TEST(TaskPaceTest, TasksThatBecomeLongEndTheNaps) {
  TaskPace pace;
  pace.Learn(100'000, 20);
  int64_t nap = 0;
  for (int i = 0; i < 3; ++i) {
    nap = pace.Nap(kMany, kRoom);
    if (nap == 0) break;
    pace.Learn(nap, 0);
  }
  EXPECT_EQ(nap, 0);
  pace.Learn(1'000'000, 1'000);
  EXPECT_GT(pace.Nap(kMany, kRoom), 0);
}

}  // namespace
}  // namespace mp::pool_internal
