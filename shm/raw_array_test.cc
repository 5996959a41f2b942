#include "mp/shm/raw_array.h"

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <numeric>
#include <optional>
#include <span>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;
using ::testing::Each;
using ::testing::ElementsAre;
using ::testing::HasSubstr;
using ::testing::IsEmpty;

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { RawArray<char>(1); }
};

class RawArrayTest : private WarmUp, public testing::ProcessTest {};

// _TestArray.test_array_from_size: zeros, though the memory was used before.
TEST_F(RawArrayTest, OfASizeIsZero) {
  for (const size_t size : {0u, 1u, 10u, 1'000u, 100'000u}) {
    for (int i = 0; i < 3; ++i) {
      RawArray<int> array(size);
      EXPECT_EQ(array.size(), size);
      EXPECT_THAT(*array, Each(0));
      std::fill(array.begin(), array.end(), 7);
    }
  }
}

struct Colour {
  uint8_t red = 200;
  uint8_t green = 100;
};

TEST_F(RawArrayTest, ElementsAreConstructed) {
  const RawArray<Colour> array(3);
  for (const Colour& colour : array) {
    EXPECT_EQ(colour.red, 200);
    EXPECT_EQ(colour.green, 100);
  }
}

// _TestArray.test_rawarray
TEST_F(RawArrayTest, AChildsWritesAreSeen) {
  const std::vector<int> values = {680, 626, 934, 821, 150,
                                   233, 548, 982, 714, 831};
  RawArray<int> array(values);
  EXPECT_EQ(array.size(), values.size());
  EXPECT_EQ(array[2], 934);
  EXPECT_THAT(array.span().subspan(2, 5), ElementsAre(934, 821, 150, 233, 548));
  const std::vector<int> replacement = {1, 2, 3, 4};
  std::copy(replacement.begin(), replacement.end(), array.begin() + 4);
  EXPECT_THAT(*array, ElementsAre(680, 626, 934, 821, 1, 2, 3, 4, 714, 831));
  std::vector<int> expected(array.begin(), array.end());
  std::partial_sum(expected.begin(), expected.end(), expected.begin());
  ChildProcess::Start([&] {
    std::partial_sum(array.begin(), array.end(), array.begin());
  }).ExpectExit(0);
  EXPECT_THAT(*array, ::testing::ElementsAreArray(expected));
}

TEST_F(RawArrayTest, FromAList) {
  EXPECT_THAT(*RawArray<double>({1.5, 2.5}), ElementsAre(1.5, 2.5));
  EXPECT_THAT(*RawArray<double>({}), IsEmpty());
}

TEST_F(RawArrayTest, ElementsAreAligned) {
  struct alignas(64) Line {
    int value;
  };
  const RawArray<Line> array(5);
  for (const Line& line : array) {
    EXPECT_EQ(reinterpret_cast<uintptr_t>(&line) % 64, 0u);
  }
}

TEST_F(RawArrayTest, AnIndexBeyondTheEndAborts) {
  const RawArray<int> array(3);
  EXPECT_DEATH(array[3], "element 3 of an array of 3");
  EXPECT_DEATH(RawArray<int>(0)[0], "element 0 of an array of 0");
}

TEST_F(RawArrayTest, ImpossibleSizesAreErrors) {
  constexpr size_t kMax = std::numeric_limits<size_t>::max();
  EXPECT_THAT(RawArray<int>::Create(kMax).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(RawArray<char>::Create(static_cast<size_t>(-1)).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  EXPECT_THAT(RawArray<int>::Create(kMax / sizeof(int) + 2).status(),
              StatusIs(absl::StatusCode::kInvalidArgument));
  // More than the machine has.
  EXPECT_THAT(RawArray<char>::Create(size_t{1} << 45).status(),
              StatusIs(absl::StatusCode::kResourceExhausted,
                       HasSubstr("posix_fallocate")));
}

TEST_F(RawArrayTest, CopiesMeanTheSameArray) {
  std::optional<RawArray<int>> first(3);
  RawArray<int> second = *first;
  EXPECT_EQ(second, *first);
  EXPECT_FALSE(second == RawArray<int>(3));
  EXPECT_FALSE(RawArray<int>(0) == RawArray<int>(0));
  (*first)[1] = 2;
  first.reset();
  EXPECT_THAT(*second, ElementsAre(0, 2, 0));
}

}  // namespace
}  // namespace mp
