// A recursive lock's users are killed: at every instruction of each operation,
// and at random in a storm. Whatever happens, the next one gets the lock, and
// is told if the holder died.

#include <cstdint>
#include <optional>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/kill_test_util.h"
#include "mp/sync/rlock.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"
#include "mp/testing/storm.h"

namespace mp {
namespace {

using ::mp::testing::KillAtEveryInstruction;
using ::mp::testing::KillPoint;
using ::mp::testing::SharedPage;
using ::mp::testing::Storm;
using ::mp::testing::StormReport;
using ::mp::testing::StormWorker;

class RLockKillTest : public KillTest {
 protected:
  RLockKillTest() { lock_.emplace(); }

  // As a survivor would: takes the lock twice and releases it.
  AcquireResult UseAsSurvivor() {
    const AcquireResult result = lock_->Acquire(kGenerous);
    EXPECT_TRUE(result);
    EXPECT_EQ(lock_->Acquire(kGenerous), kAcquired);
    EXPECT_OK(lock_->Release());
    EXPECT_TRUE(lock_->Locked());
    EXPECT_OK(lock_->Release());
    EXPECT_FALSE(lock_->Locked());
    return result;
  }

  std::optional<RLock> lock_;
};

TEST_F(RLockKillTest, Acquire) {
  Once acquired;
  Print("acquire, free",
        KillAtEveryInstruction({.prepare = [&] { lock_.emplace(); },
                                .op = [&] { lock_->Acquire(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      acquired.Expect(
                                          UseAsSurvivor() == kOwnerDied, point);
                                      EXPECT_EQ(UseAsSurvivor(), kAcquired);
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

TEST_F(RLockKillTest, AcquireAgain) {
  Print("acquire again",
        KillAtEveryInstruction({.prepare = [&] { lock_.emplace(); },
                                .setup = [&] { lock_->Acquire(); },
                                .op = [&] { lock_->Acquire(); },
                                .check =
                                    [&](const KillPoint&) {
                                      EXPECT_EQ(UseAsSurvivor(), kOwnerDied);
                                      EXPECT_EQ(UseAsSurvivor(), kAcquired);
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

TEST_F(RLockKillTest, InnerRelease) {
  Print("release, inner",
        KillAtEveryInstruction({.prepare = [&] { lock_.emplace(); },
                                .setup =
                                    [&] {
                                      lock_->Acquire();
                                      lock_->Acquire();
                                    },
                                .op = [&] { lock_->Release().IgnoreError(); },
                                .check =
                                    [&](const KillPoint&) {
                                      EXPECT_EQ(UseAsSurvivor(), kOwnerDied);
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

TEST_F(RLockKillTest, OuterRelease) {
  Once released;
  Print("release, outer",
        KillAtEveryInstruction({.prepare = [&] { lock_.emplace(); },
                                .setup = [&] { lock_->Acquire(); },
                                .op = [&] { lock_->Release().IgnoreError(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      released.Expect(
                                          UseAsSurvivor() == kAcquired, point);
                                      EXPECT_EQ(UseAsSurvivor(), kAcquired);
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

// Killed while it waits, or when it has just got the lock.
TEST_F(RLockKillTest, AcquireOfAHeldLock) {
  bool released = false;
  const auto release = [&] {
    if (!released) {
      EXPECT_OK(lock_->Release());
    }
    released = true;
  };
  Print("acquire, held",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      lock_.emplace();
                                      lock_->Acquire();
                                      released = false;
                                    },
                                .op = [&] { lock_->Acquire(); },
                                .unblock = release,
                                .check =
                                    [&](const KillPoint& point) {
                                      release();
                                      const AcquireResult result =
                                          UseAsSurvivor();
                                      if (point.completed()) {
                                        EXPECT_EQ(result, kOwnerDied);
                                      }
                                    },
                                .first = AnyOf(kStride.slow),
                                .stride = kStride.slow,
                                .asleep_after = kAsleepAfter}));
}

// What is counted under the lock comes out even, but for the victims'.
TEST_F(RLockKillTest, Storm) {
  struct Counts {
    int64_t first = 0;
    int64_t second = 0;
    int64_t torn = 0;
  };
  RLock lock;
  SharedPage<Counts> counts;
  Storm storm({.kills = 2'000, .max_interval = absl::Milliseconds(1)});
  storm.AddRole("user", 4, [&](StormWorker&) {
    const AcquireResult result = lock.Acquire(kGenerous);
    ASSERT_TRUE(result);
    if (result == kOwnerDied) {
      if (counts->first != counts->second) ++counts->torn;
      counts->second = counts->first;
    }
    EXPECT_EQ(counts->first, counts->second) << "not told of a death";
    ++counts->first;
    EXPECT_EQ(lock.Acquire(), kAcquired);
    ++counts->second;
    EXPECT_OK(lock.Release());
    EXPECT_OK(lock.Release());
  });
  const StormReport report = storm.Run();
  EXPECT_EQ(report.kills, storm.kills());
  EXPECT_GT(counts->first, 2'000);
}

}  // namespace
}  // namespace mp
