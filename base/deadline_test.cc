#include "mp/base/deadline.h"

#include <time.h>

#include <cstdint>
#include <limits>
#include <thread>

#include "absl/time/time.h"
#include "gtest/gtest.h"

namespace mp {
namespace {

constexpr int64_t kMillisecond = 1'000'000;
constexpr int64_t kHour = int64_t{3600} * 1000 * kMillisecond;

int64_t ToNanos(const timespec& time) {
  return int64_t{time.tv_sec} * 1'000'000'000 + time.tv_nsec;
}

TEST(DeadlineTest, InfiniteNeverExpires) {
  const Deadline deadline = Deadline::Infinite();
  EXPECT_TRUE(deadline.infinite());
  EXPECT_FALSE(deadline.Expired());
  EXPECT_EQ(deadline.Remaining(), absl::InfiniteDuration());
  EXPECT_EQ(deadline.ToPollMillis(), -1);
}

TEST(DeadlineTest, NowHasExpired) {
  const Deadline deadline = Deadline::Now();
  EXPECT_FALSE(deadline.infinite());
  EXPECT_TRUE(deadline.Expired());
  EXPECT_EQ(deadline.Remaining(), absl::ZeroDuration());
  EXPECT_EQ(deadline.ToPollMillis(), 0);
  EXPECT_EQ(ToNanos(deadline.ToTimespec()), 0);
}

TEST(DeadlineTest, ZeroAndNegativeTimeoutsAreNow) {
  EXPECT_EQ(Deadline::After(absl::ZeroDuration()), Deadline::Now());
  EXPECT_EQ(Deadline::After(absl::Nanoseconds(-1)), Deadline::Now());
  EXPECT_EQ(Deadline::After(absl::Nanoseconds(-1) / 4), Deadline::Now());
  EXPECT_EQ(Deadline::After(absl::Hours(-1)), Deadline::Now());
  EXPECT_EQ(Deadline::After(-absl::InfiniteDuration()), Deadline::Now());
}

TEST(DeadlineTest, TimeoutsBeyondTheClockAreInfinite) {
  EXPECT_EQ(Deadline::After(absl::InfiniteDuration()), Deadline::Infinite());
  // 292 years fit into the nanoseconds of an int64_t.
  EXPECT_EQ(Deadline::After(absl::Hours(24) * 365 * 300), Deadline::Infinite());
  EXPECT_EQ(
      Deadline::After(absl::Nanoseconds(std::numeric_limits<int64_t>::max()) -
                      absl::Nanoseconds(1)),
      Deadline::Infinite());
}

TEST(DeadlineTest, LongTimeoutStaysFinite) {
  const Deadline deadline = Deadline::After(absl::Hours(24) * 365 * 100);
  EXPECT_FALSE(deadline.infinite());
  EXPECT_FALSE(deadline.Expired());
  EXPECT_GT(deadline.Remaining(), absl::Hours(24) * 365 * 99);
  EXPECT_EQ(deadline.ToPollMillis(), std::numeric_limits<int>::max());
}

TEST(DeadlineTest, AfterIsTheTimeoutFromNow) {
  const int64_t before = MonotonicNanos();
  const Deadline deadline = Deadline::After(absl::Hours(1));
  const int64_t after = MonotonicNanos();
  EXPECT_GE(ToNanos(deadline.ToTimespec()), before + kHour);
  EXPECT_LE(ToNanos(deadline.ToTimespec()), after + kHour);
  EXPECT_FALSE(deadline.Expired());
  EXPECT_LE(deadline.Remaining(), absl::Hours(1));
  EXPECT_GT(deadline.Remaining(), absl::ZeroDuration());
}

TEST(DeadlineTest, LessThanANanosecondRoundsUp) {
  const int64_t before = MonotonicNanos();
  const Deadline deadline = Deadline::After(absl::Nanoseconds(1) / 4);
  EXPECT_GE(ToNanos(deadline.ToTimespec()), before + 1);
  EXPECT_NE(deadline, Deadline::Now());

  const int64_t before_second = MonotonicNanos();
  const Deadline second =
      Deadline::After(absl::Hours(1) + absl::Nanoseconds(1) / 4);
  EXPECT_GE(ToNanos(second.ToTimespec()), before_second + kHour + 1);
}

TEST(DeadlineTest, Expires) {
  const Deadline deadline = Deadline::After(absl::Milliseconds(2));
  while (!deadline.Expired()) {
  }
  EXPECT_GE(MonotonicNanos(), ToNanos(deadline.ToTimespec()));
  EXPECT_EQ(deadline.Remaining(), absl::ZeroDuration());
  EXPECT_EQ(deadline.ToPollMillis(), 0);
}

TEST(DeadlineTest, AtNanosIsAbsolute) {
  const Deadline deadline = Deadline::AtNanos(5'000'000'007);
  const timespec time = deadline.ToTimespec();
  EXPECT_EQ(time.tv_sec, 5);
  EXPECT_EQ(time.tv_nsec, 7);
}

TEST(DeadlineTest, PollMillisRoundUp) {
  // A fraction of a millisecond is never rounded to "do not wait".
  const Deadline hour =
      Deadline::AtNanos(MonotonicNanos() + kHour + kMillisecond / 2);
  const int millis = hour.ToPollMillis();
  EXPECT_LE(millis, 3'600'001);
  EXPECT_GT(millis, 0);
  for (int i = 0; i < 1000; ++i) {
    const Deadline near = Deadline::AtNanos(MonotonicNanos() + kMillisecond);
    const int rounded = near.ToPollMillis();
    // Zero only if the deadline passed meanwhile.
    if (rounded == 0) {
      EXPECT_TRUE(near.Expired());
    } else {
      EXPECT_EQ(rounded, 1);
    }
  }
}

TEST(DeadlineTest, SoonerTakesTheEarlier) {
  const int64_t before = MonotonicNanos();
  const Deadline slice = Deadline::Infinite().Sooner(kMillisecond);
  EXPECT_FALSE(slice.infinite());
  EXPECT_GE(ToNanos(slice.ToTimespec()), before + kMillisecond);

  const Deadline near = Deadline::AtNanos(before + kMillisecond);
  EXPECT_EQ(near.Sooner(kHour), near);
  EXPECT_EQ(Deadline::Now().Sooner(kHour), Deadline::Now());
}

TEST(DeadlineTest, MonotonicNanosIsTheMonotonicClock) {
  timespec time;
  ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &time), 0);
  const int64_t first = MonotonicNanos();
  EXPECT_GE(first, ToNanos(time));
  ASSERT_EQ(clock_gettime(CLOCK_MONOTONIC, &time), 0);
  EXPECT_LE(first, ToNanos(time));
}

TEST(DeadlineTest, AThreadMayHaveAClockOfItsOwn) {
  int64_t clock = 5;
  SetThreadClockForTest(&clock);
  EXPECT_EQ(MonotonicNanos(), 5);
  const Deadline soon = Deadline::After(absl::Nanoseconds(10));
  EXPECT_FALSE(soon.Expired());
  std::thread([] { EXPECT_GT(MonotonicNanos(), kMillisecond); }).join();
  clock = 15;
  EXPECT_TRUE(soon.Expired());
  SetThreadClockForTest(nullptr);
  EXPECT_GT(MonotonicNanos(), kMillisecond);
}

}  // namespace
}  // namespace mp
