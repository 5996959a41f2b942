// A semaphore's users are killed: at every instruction of each operation, and
// at random in a storm. Whatever happens, permits on an account come back,
// exactly as many as there were, and who waits goes on.

#include <atomic>
#include <chrono>
#include <mutex>
#include <optional>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/spin.h"
#include "mp/sync/kill_test_util.h"
#include "mp/sync/semaphore.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"
#include "mp/testing/storm.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillAtEveryInstruction;
using ::mp::testing::KillPoint;
using ::mp::testing::KillReport;
using ::mp::testing::SharedPage;
using ::mp::testing::Storm;
using ::mp::testing::StormReport;
using ::mp::testing::StormWorker;

class SemaphoreKillTest : public KillTest {
 protected:
  SemaphoreKillTest() { Reset(); }

  void Reset(int value = 2) { semaphore_.emplace(value); }

  // There are as many permits as that, those of the dead included, and all
  // calls work.
  void ExpectPermits(int permits) {
    for (int i = 0; i < permits; ++i) {
      EXPECT_TRUE(semaphore_->try_lock())
          << "permit " << i << " of " << permits;
    }
    EXPECT_FALSE(semaphore_->try_lock());
    EXPECT_FALSE(semaphore_->Acquire(absl::ZeroDuration()));
    for (int i = 0; i < permits; ++i) semaphore_->unlock();
    EXPECT_EQ(semaphore_->value(), permits);
  }

  // A child that waits for a permit, and gives it back, once it is asleep.
  ChildProcess StartSleeper() {
    auto sleeper = ChildProcess::Start(
        [&] { const std::scoped_lock permit(*semaphore_); });
    EXPECT_TRUE(sleeper.WaitUntilAsleep());
    return sleeper;
  }

  std::optional<Semaphore> semaphore_;
  SharedPage<std::atomic<bool>> sleeper_ready_;
};

TEST_F(SemaphoreKillTest, Acquire) {
  Once acquired;
  Print("acquire",
        KillAtEveryInstruction({.prepare = [&] { Reset(); },
                                .op = [&] { semaphore_->Acquire(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      const int value = semaphore_->value();
                                      acquired.Expect(value == 1, point);
                                      ExpectPermits(value);
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

TEST_F(SemaphoreKillTest, Release) {
  Once released;
  Print("release, nobody asleep",
        KillAtEveryInstruction(
            {.prepare = [&] { Reset(); },
             .op = [&] { semaphore_->Release().IgnoreError(); },
             .check =
                 [&](const KillPoint& point) {
                   const int value = semaphore_->value();
                   released.Expect(value == 3, point);
                   ExpectPermits(value);
                 },
             .first = AnyOf(kStride.quick),
             .stride = kStride.quick}));
}

// If it was released, the sleepers go on without anybody's help.
TEST_F(SemaphoreKillTest, ReleaseWithSleepers) {
  std::optional<ChildProcess> sleepers[2];
  Once released;
  const auto end_sleepers = [&] {
    for (std::optional<ChildProcess>& sleeper : sleepers) {
      if (sleeper) sleeper->ExpectExit(0);
      sleeper.reset();
    }
  };
  Print("release of two, two asleep",
        KillAtEveryInstruction(
            {.prepare =
                 [&] {
                   end_sleepers();  // of the first run, which is not checked
                   Reset(0);
                   for (auto& sleeper : sleepers) {
                     sleeper.emplace(StartSleeper());
                   }
                 },
             .op = [&] { semaphore_->Release(2).IgnoreError(); },
             .check =
                 [&](const KillPoint& point) {
                   const bool first = sleepers[0]->WaitUntilAsleep();
                   const bool second = sleepers[1]->WaitUntilAsleep();
                   const bool none =
                       first && second && semaphore_->value() == 0;
                   released.Expect(!none, point);
                   if (none) {
                     EXPECT_OK(semaphore_->Release(2));
                   }
                   end_sleepers();
                   ExpectPermits(2);
                 },
             .first = AnyOf(kStride.sleepers),
             .stride = kStride.sleepers}));
}

// The permit is on the account of the dead, or has never left.
TEST_F(SemaphoreKillTest, Lock) {
  Print("lock", KillAtEveryInstruction(
                    {.prepare = [&] { Reset(); },
                     .op = [&] { semaphore_->lock(); },
                     .check = [&](const KillPoint&) { ExpectPermits(2); },
                     .first = AnyOf(kStride.quick),
                     .stride = kStride.quick}));
}

TEST_F(SemaphoreKillTest, LockOfTheLastPermit) {
  Print("lock, the last permit",
        KillAtEveryInstruction(
            {.prepare = [&] { Reset(1); },
             .op = [&] { semaphore_->lock(); },
             .check = [&](const KillPoint&) { ExpectPermits(1); },
             .first = AnyOf(kStride.quick),
             .stride = kStride.quick}));
}

TEST_F(SemaphoreKillTest, LockAndUnlock) {
  Print("lock, unlock",
        KillAtEveryInstruction({.prepare = [&] { Reset(); },
                                .op =
                                    [&] {
                                      semaphore_->lock();
                                      semaphore_->lock();
                                      semaphore_->unlock();
                                      semaphore_->unlock();
                                    },
                                .check =
                                    [&](const KillPoint& point) {
                                      if (point.completed()) {
                                        EXPECT_EQ(semaphore_->value(), 2);
                                      }
                                      ExpectPermits(2);
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

// Whether it dies before, within or after: the sleeper gets the permit.
TEST_F(SemaphoreKillTest, UnlockWithASleeper) {
  std::optional<ChildProcess> sleeper;
  const auto end_sleeper = [&] {
    if (sleeper) sleeper->ExpectExit(0);
    sleeper.reset();
  };
  Print("unlock, somebody asleep",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      end_sleeper();  // of the first run
                                      Reset(1);
                                      // Waits when somebody has the permit.
                                      *sleeper_ready_ = false;
                                      sleeper.emplace(ChildProcess::Start([&] {
                                        while (!semaphore_->Locked()) {
                                          CpuRelax();
                                        }
                                        *sleeper_ready_ = true;
                                        const std::scoped_lock permit(
                                            *semaphore_);
                                      }));
                                    },
                                .setup =
                                    [&] {
                                      semaphore_->lock();
                                      while (!*sleeper_ready_) CpuRelax();
                                      sleeper->WaitUntilAsleep();
                                    },
                                .op = [&] { semaphore_->unlock(); },
                                .check =
                                    [&](const KillPoint&) {
                                      end_sleeper();
                                      ExpectPermits(1);
                                    },
                                .first = AnyOf(kStride.sleepers),
                                .stride = kStride.sleepers}));
}

// Killed while it waits, or when it has just got the permit.
TEST_F(SemaphoreKillTest, LockThatWaits) {
  const KillReport report = KillAtEveryInstruction(
      {.prepare = [&] { Reset(0); },
       .setup = SpinUnlessInstrumented,
       .op = [&] { semaphore_->lock(); },
       .unblock = [&] { EXPECT_OK(semaphore_->Release()); },
       .check =
           [&](const KillPoint& point) {
             const int value = semaphore_->value();
             if (point.completed()) {
               EXPECT_EQ(value, 0);
             }
             // One was released, unless it died before that.
             if (value == 0 && !semaphore_->try_lock()) {
               EXPECT_OK(semaphore_->Release());
             } else if (value == 0) {
               semaphore_->unlock();
             }
             ExpectPermits(1);
           },
       .first = AnyOf(kStride.slow),
       .stride = kStride.slow,
       .asleep_after = kAsleepAfter});
  Print("lock, that waits", report);
  EXPECT_GT(report.sleeps, 0);
}

// Who takes permits back from the dead is killed at that.
TEST_F(SemaphoreKillTest, TakingBackFromTheDead) {
  Print("take back from the dead",
        KillAtEveryInstruction(
            {.prepare =
                 [&] {
                   Reset();
                   ChildProcess::Start([&] {
                     semaphore_->lock();
                     semaphore_->lock();
                   }).ExpectExit(0);
                 },
             .op =
                 [&] {
                   semaphore_->lock();
                   semaphore_->unlock();
                 },
             .check = [&](const KillPoint&) { ExpectPermits(2); },
             .first = AnyOf(kStride.slow),
             .stride = kStride.slow}));
}

// ---- The storm

// Nobody takes anonymous permits to the grave: all permits are on accounts, and
// all are there in the end.
TEST_F(SemaphoreKillTest, Storm) {
  constexpr int kPermits = 3;
  Semaphore semaphore(kPermits);
  Storm storm({.kills = 500, .max_interval = absl::Milliseconds(1)});
  storm.AddRole("user", 4, [&](StormWorker&) {
    const std::scoped_lock permit(semaphore);
  });
  storm.AddRole("hoarder", 2, [&](StormWorker&) {
    const std::scoped_lock permit(semaphore);
    if (semaphore.try_lock()) semaphore.unlock();
  });
  storm.AddRole("impatient user", 2, [&](StormWorker&) {
    while (!semaphore.try_lock_for(std::chrono::microseconds(200))) {
    }
    semaphore.unlock();
  });
  const StormReport report = storm.Run();
  EXPECT_EQ(report.kills, storm.kills());
  for (int i = 0; i < kPermits; ++i) EXPECT_TRUE(semaphore.try_lock());
  EXPECT_FALSE(semaphore.try_lock());
}

// Permits go through anonymous hands, too, from producers to consumers, whose
// deaths lose some of them. Nobody is stranded.
TEST_F(SemaphoreKillTest, StormOfAnonymousPermits) {
  Semaphore semaphore(0);
  Storm storm({.kills = 500, .max_interval = absl::Milliseconds(1)});
  storm.AddRole("giver", 2, [&](StormWorker&) {
    if (semaphore.value() < 100) {
      EXPECT_OK(semaphore.Release(2));
    }
  });
  storm.AddRole("taker", 3, [&](StormWorker&) { semaphore.Acquire(); });
  storm.AddRole("user", 2, [&](StormWorker&) {
    const std::scoped_lock permit(semaphore);
  });
  const StormReport report = storm.Run();
  EXPECT_EQ(report.kills, storm.kills());
}

}  // namespace
}  // namespace mp
