#include "mp/shm/raw_value.h"

#include <sys/resource.h>

#include <atomic>
#include <cstdint>
#include <optional>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "absl/status/status.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/shm/slab.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/status_matchers.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::StatusIs;
using ::testing::HasSubstr;

static_assert(SafeInSharedMemory<std::atomic<uint64_t>>);
static_assert(!SafeInSharedMemory<std::string_view>);
static_assert(!SafeInSharedMemory<std::span<int>>);
struct ThreeWords {
  int64_t words[3];
};
static_assert(!SafeInSharedMemory<std::atomic<ThreeWords>>);

// Makes the slab that this process keeps before the leak check looks.
struct WarmUp {
  WarmUp() { RawValue<int>(); }
};

class RawValueTest : private WarmUp, public testing::ProcessTest {};

struct Point {
  Point() = default;
  Point(int the_x, double the_y) : x(the_x), y(the_y) {}
  int x = 1;
  double y = 2;
};

TEST_F(RawValueTest, BeginsAsAskedFor) {
  EXPECT_EQ(*RawValue<int>(), 0);
  EXPECT_EQ(*RawValue<int>(3), 3);
  EXPECT_EQ(*RawValue(2.5), 2.5);
  EXPECT_EQ(*RawValue<std::atomic<int>>(4), 4);
  const RawValue<Point> standard;
  EXPECT_EQ(standard->x, 1);
  EXPECT_EQ(standard->y, 2);
  const RawValue<Point> own(3, 4.5);
  EXPECT_EQ(own->x, 3);
  EXPECT_EQ(own->y, 4.5);
}

// _TestValue.test_rawvalue
TEST_F(RawValueTest, AChildsWritesAreSeen) {
  RawValue<int> a(7);
  RawValue<double> b(3.5);
  RawValue<int16_t> c(static_cast<int16_t>(-232));
  RawValue<long long> d(int64_t{1} << 33);
  RawValue<char> e('x');
  EXPECT_EQ(*d, int64_t{1} << 33);
  ChildProcess::Start([&] {
    EXPECT_EQ(*a, 7);
    *a = -3;
    *b = -6.25;
    *c = 232;
    *d = -(int64_t{1} << 33);
    *e = 'y';
  }).ExpectExit(0);
  EXPECT_EQ(*a, -3);
  EXPECT_EQ(*b, -6.25);
  EXPECT_EQ(*c, 232);
  EXPECT_EQ(*d, -(int64_t{1} << 33));
  EXPECT_EQ(*e, 'y');
}

TEST_F(RawValueTest, AtomicsLoseNothing) {
  constexpr int kTimes = 100'000;
  const RawValue<std::atomic<int>> count(0);
  std::vector<ChildProcess> children;
  for (int i = 0; i < 3; ++i) {
    children.push_back(ChildProcess::Start([count] {
      for (int n = 0; n < kTimes; ++n) count->fetch_add(1);
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(*count, 3 * kTimes);
}

// _TestSharedCTypes.test_copy
TEST_F(RawValueTest, ACopyOfTheObjectIsAnother) {
  RawValue<Point> original(5, 6.0);
  RawValue<Point> other(*original);
  original->x = 0;
  EXPECT_EQ(other->x, 5);
  EXPECT_FALSE(other == original);
}

TEST_F(RawValueTest, CopiesMeanTheSameObject) {
  std::optional<RawValue<int>> first(1);
  RawValue<int> second = *first;
  EXPECT_EQ(second, *first);
  **first = 2;
  EXPECT_EQ(*second, 2);
  first.reset();
  EXPECT_EQ(*second, 2);
  const RawValue<int> moved = std::move(second);
  EXPECT_EQ(*moved, 2);
}

TEST_F(RawValueTest, CreateReportsWhatIsMissing) {
  EXPECT_OK(RawValue<int>::Create(1));
  ChildProcess::Start([] {
    rlimit limit;
    ASSERT_EQ(getrlimit(RLIMIT_NOFILE, &limit), 0);
    const rlimit none = {.rlim_cur = 0, .rlim_max = limit.rlim_max};
    // Only for the call: UBSan needs descriptors, too.
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &none), 0);
    const absl::Status status = RawValue<int>::Create().status();
    ASSERT_EQ(setrlimit(RLIMIT_NOFILE, &limit), 0);
    EXPECT_THAT(status, StatusIs(absl::StatusCode::kResourceExhausted,
                                 HasSubstr("memfd_create")));
  }).ExpectExit(0);
}

}  // namespace
}  // namespace mp
