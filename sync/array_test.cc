#include "mp/sync/array.h"

#include <unistd.h>

#include <cstddef>
#include <limits>
#include <numeric>
#include <span>
#include <string_view>
#include <type_traits>
#include <vector>

#include "absl/status/status.h"
#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/sync/lock.h"
#include "mp/sync/rlock.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::ElementsAreArray;

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { Array<int>(1); }
};

class ArrayTest : private WarmUp, public testing::ProcessTest {};

// _TestArray.test_array
TEST_F(ArrayTest, AChildsWritesAreSeen) {
  const std::vector<int> values = {680, 626, 934, 821, 150,
                                   233, 548, 982, 714, 831};
  Array<int> array(values);
  EXPECT_EQ(array.size(), values.size());
  EXPECT_EQ(array.Get(2), 934);
  EXPECT_THAT(array.GetSlice(2, 5), ElementsAre(934, 821, 150, 233, 548));
  array.SetSlice(4, std::vector<int>{1, 2, 3, 4});
  array.Set(9, 5);
  std::vector<int> expected = {680, 626, 934, 821, 1, 2, 3, 4, 714, 5};
  EXPECT_THAT(array.GetSlice(0, 10), ElementsAreArray(expected));
  std::partial_sum(expected.begin(), expected.end(), expected.begin());
  ChildProcess::Start([&] {
    auto access = array.Access();
    for (size_t i = 1; i < array.size(); ++i) access[i] += access[i - 1];
  }).ExpectExit(0);
  EXPECT_THAT(array.GetSlice(0, 10), ElementsAreArray(expected));
}

// _TestArray.test_array_from_size
TEST_F(ArrayTest, OfASizeIsZero) {
  for (int i = 0; i < 3; ++i) {
    Array<int> array(10);
    EXPECT_EQ(array.size(), 10u);
    EXPECT_THAT(array.GetSlice(0, 10), Each(0));
    for (int& element : array.Access()) element = 7;
    EXPECT_THAT(array.GetSlice(0, 10), Each(7));
  }
}

// _TestArray.test_getobj_getlock_obj
TEST_F(ArrayTest, TheLockIsItsOwnOrTheCallers) {
  Array<int> own(5);
  static_assert(std::is_same_v<decltype(own.get_lock()), RLock&>);
  EXPECT_EQ(own.get_obj().size(), 5u);
  Lock lock;
  Array<int, Lock> with(5, lock);
  Array<int, Lock> beside(std::vector<int>{1, 2}, lock);
  EXPECT_EQ(with.get_lock(), lock);
  const auto access = with.Access();
  EXPECT_FALSE(beside.Access(absl::ZeroDuration()));
  EXPECT_TRUE(own.Access(absl::ZeroDuration()));
}

// _TestSharedCTypes.test_synchronize, the arrays.
TEST_F(ArrayTest, ElementsOfOtherTypes) {
  Array<double> numbers({0.5, 1.5});
  Array<char> text(std::string_view("hello "));
  ChildProcess::Start([&] {
    numbers.Update([](std::span<double> all) {
      for (double& number : all) number *= 2;
    });
    text.SetSlice(0, std::string_view("HELLO"));
  }).ExpectExit(0);
  EXPECT_THAT(numbers.GetSlice(0, 2), ElementsAre(1.0, 3.0));
  const auto access = text.Access();
  EXPECT_EQ(std::string_view(access.begin(), access.end()), "HELLO ");
}

TEST_F(ArrayTest, ElementsThatAreNotThereAbort) {
  Array<int> array(3);
  EXPECT_DEATH(array.Get(3), "element 3 of an array of 3");
  EXPECT_DEATH(array.Set(3, 1), "element 3 of an array of 3");
  EXPECT_DEATH(array.GetSlice(2, 2), "2 elements from 2 of an array of 3");
  EXPECT_DEATH(array.GetSlice(4, 0), "0 elements from 4 of an array of 3");
  EXPECT_DEATH(array.SetSlice(1, std::vector<int>(3)),
               "3 elements from 1 of an array of 3");
  EXPECT_DEATH(array.GetSlice(1, std::numeric_limits<size_t>::max()),
               "from 1 of an array of 3");
  EXPECT_TRUE(array.GetSlice(3, 0).empty());
}

TEST_F(ArrayTest, CreateReportsWhatIsWrong) {
  EXPECT_OK(Array<int>::Create(3));
  EXPECT_OK(Array<int>::Create(std::vector<int>{1}));
  EXPECT_OK(Array<int>::Create(std::vector<int>{1}, RLock()));
  EXPECT_THAT(Array<int>::Create(static_cast<size_t>(-1)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(Array<int>::Create(static_cast<size_t>(-1), RLock()).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
}

TEST_F(ArrayTest, TheNextOneIsToldOfADeathOrRepairs) {
  for (const bool repairs : {true, false}) {
    Array<int> array(2);
    if (repairs) {
      array.set_repair([](std::span<int> all) { all[1] = all[0]; });
    }
    ChildProcess::Start([&] {
      auto access = array.Access();
      access[0] = 1;
      _exit(0);
    }).ExpectExit(0);
    const auto access = array.Access();
    EXPECT_TRUE(access.owner_died());
    EXPECT_THAT(*access, ElementsAre(1, repairs ? 1 : 0));
  }
}

}  // namespace
}  // namespace mp
