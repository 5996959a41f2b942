#include "mp/shm/adaptive_spin.h"

#include <algorithm>
#include <atomic>
#include <cstdint>
#include <vector>

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

constexpr SpinStyle kPlain = {
    .first_gap = 1, .last_gap = 1, .for_partner = false};

class AdaptiveSpinTest : public ::testing::Test {
 protected:
  AdaptiveSpinTest() {
    CountingPlatform::may_spin = true;
    CountingPlatform::relaxed = 0;
  }

  // Pauses that a spin without success took.
  template <class Spin>
  static int Fail(Spin& spin) {
    CountingPlatform::relaxed = 0;
    EXPECT_FALSE(spin.Until([] { return false; }));
    return CountingPlatform::relaxed;
  }
  int Fail() { return Fail(spin_); }

  // A spin that has success after so many pauses.
  template <class Spin>
  static bool Succeed(Spin& spin, int pauses) {
    CountingPlatform::relaxed = 0;
    return spin.Until([&] { return CountingPlatform::relaxed >= pauses; });
  }
  bool Succeed(int pauses) { return Succeed(spin_, pauses); }

  AdaptiveSpin<CountingPlatform, kPlain> spin_;
};

TEST_F(AdaptiveSpinTest, ReturnsWhenDone) {
  EXPECT_TRUE(Succeed(1));
  EXPECT_EQ(CountingPlatform::relaxed, 1);
  EXPECT_TRUE(Succeed(3));
  EXPECT_EQ(CountingPlatform::relaxed, 3);
}

TEST_F(AdaptiveSpinTest, DoesNothingOnOneProcessor) {
  CountingPlatform::may_spin = false;
  int looks = 0;
  EXPECT_FALSE(spin_.Until([&] { return ++looks > 0; }));
  EXPECT_EQ(looks, 0);
  EXPECT_EQ(CountingPlatform::relaxed, 0);
}

TEST_F(AdaptiveSpinTest, LooksBecomeRareUpToTheLastGap) {
  AdaptiveSpin<CountingPlatform,
               SpinStyle{.first_gap = 2, .last_gap = 8, .for_partner = false}>
      spin;
  std::vector<int> looks;
  EXPECT_FALSE(spin.Until([&] {
    looks.push_back(CountingPlatform::relaxed);
    return false;
  }));
  ASSERT_GE(looks.size(), 5u);
  looks.resize(5);
  EXPECT_EQ(looks, (std::vector<int>{2, 6, 14, 22, 30}));
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

TEST_F(AdaptiveSpinTest, QuickSuccessKeepsTheBudgetSmall) {
  const int fresh = Fail();
  for (int i = 0; i < 1000; ++i) ASSERT_TRUE(Succeed(1));
  EXPECT_LE(Fail(), fresh + 2);
}

TEST_F(AdaptiveSpinTest, SpinForLockIsShortHoweverOftenItFails) {
  AdaptiveSpin<CountingPlatform, kSpinForLock> spin;
  for (int i = 0; i < 1000; ++i) ASSERT_LE(Fail(spin), 300);
}

TEST_F(AdaptiveSpinTest, SpinForPartnerIsPatientOnceAfterEachSuccess) {
  AdaptiveSpin<CountingPlatform, kSpinForPartner> spin;
  for (int i = 0; i < 100; ++i) ASSERT_TRUE(Succeed(spin, 1));
  EXPECT_GE(Fail(spin), 200) << "though answers came at once";
  EXPECT_GE(Fail(spin), 1000);
  EXPECT_GE(Fail(spin), 1000);
  EXPECT_LE(Fail(spin), 100);
  ASSERT_TRUE(Succeed(spin, 1));
  EXPECT_TRUE(Succeed(spin, 200));
}

// At once, and again after a success: what put the partners to sleep may have
// been an interrupt.
TEST_F(AdaptiveSpinTest, SpinForPartnerOutlastsAWakeUpAfterTheFirstFailure) {
  AdaptiveSpin<CountingPlatform, kSpinForPartner> spin;
  const int fresh = Fail(spin);
  EXPECT_LE(fresh, 300);
  EXPECT_GE(Fail(spin), 1000);
  EXPECT_GE(Fail(spin), 1000);
  EXPECT_LE(Fail(spin), 300);
  EXPECT_GE(Fail(spin), 1000);
  EXPECT_TRUE(Succeed(spin, 1));
  EXPECT_LE(Fail(spin), 300);
  EXPECT_GE(Fail(spin), 1000);
}

TEST_F(AdaptiveSpinTest, SpinForPartnerThatIsNeverThereIsShortOnAverage) {
  AdaptiveSpin<CountingPlatform, kSpinForPartner> spin;
  constexpr int kSpins = 200'000;  // more than the count of failures can hold
  int64_t pauses = 0;
  int64_t longest = 0;
  for (int i = 0; i < kSpins; ++i) {
    const int each = Fail(spin);
    pauses += each;
    longest = std::max<int64_t>(longest, each);
  }
  EXPECT_GE(longest, 1000);
  EXPECT_LT(pauses / kSpins, 100);
}

}  // namespace
}  // namespace mp
