#include "mp/shm/adaptive_spin.h"

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "gtest/gtest.h"

namespace mp {
namespace {

// Counts instead of pausing.
struct CountingPlatform {
  template <class T>
  using Atomic = std::atomic<T>;

  static void Relax() { ++relaxed; }
  static bool MaySpin() { return may_spin; }

  static inline int relaxed = 0;
  static inline bool may_spin = true;
};

class AdaptiveSpinTest : public ::testing::Test {
 protected:
  AdaptiveSpinTest() { CountingPlatform::may_spin = true; }

  // Rounds that a spin without success took.
  int Fail() {
    CountingPlatform::relaxed = 0;
    int looks = 0;
    EXPECT_FALSE(spin_.Until([&] {
      ++looks;
      return false;
    }));
    EXPECT_EQ(looks, CountingPlatform::relaxed) << "a pause before each look";
    return looks;
  }

  // A spin that has success at that look, counted from 1.
  bool Succeed(int at) {
    int looks = 0;
    const bool done = spin_.Until([&] { return ++looks == at; });
    if (done) {
      EXPECT_EQ(looks, at);
    }
    return done;
  }

  AdaptiveSpin<CountingPlatform> spin_;
};

TEST_F(AdaptiveSpinTest, ReturnsWhenDone) {
  CountingPlatform::relaxed = 0;
  EXPECT_TRUE(Succeed(1));
  EXPECT_EQ(CountingPlatform::relaxed, 1);
  EXPECT_TRUE(Succeed(3));
  EXPECT_EQ(CountingPlatform::relaxed, 4);
}

TEST_F(AdaptiveSpinTest, DoesNothingOnOneProcessor) {
  CountingPlatform::may_spin = false;
  EXPECT_EQ(Fail(), 0);
}

TEST_F(AdaptiveSpinTest, BudgetFollowsSuccess) {
  const int fresh = Fail();
  EXPECT_GT(fresh, 0);
  EXPECT_EQ(Fail(), fresh) << "the least, already";
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Succeed(fresh));
  // Success that comes late, but is found, makes it more patient, and so finds
  // success that comes later still.
  int latest = fresh;
  while (Succeed(latest + latest / 2)) {
    latest += latest / 2;
    ASSERT_LE(latest, 1000) << "a few microseconds at most";
    for (int i = 0; i < 100; ++i) ASSERT_TRUE(Succeed(latest));
  }
  EXPECT_GT(latest, 3 * fresh);
  // Failure makes it impatient again.
  for (int i = 0; i < 100; ++i) Fail();
  EXPECT_LE(Fail(), fresh + 1);
}

TEST_F(AdaptiveSpinTest, OneFailureInManyIsLongEnoughForAWakeUp) {
  const int fresh = Fail();
  int longest = fresh;
  int total = fresh;
  for (int i = 1; i < 320; ++i) {
    const int rounds = Fail();
    longest = std::max(longest, rounds);
    total += rounds;
  }
  EXPECT_GT(longest, 1000);
  EXPECT_LT(total / 320, 200) << "a few microseconds on average";
}

TEST_F(AdaptiveSpinTest, QuickSuccessKeepsTheBudgetSmall) {
  const int fresh = Fail();
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(Succeed(1));
  EXPECT_EQ(Fail(), fresh);
}

}  // namespace
}  // namespace mp
