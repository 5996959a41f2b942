// A lock's users are killed: at every instruction of each operation, and at
// random in a storm. Whatever happens, the next one gets the lock, is told if
// the holder died, and finds what the lock protects consistent or is told that
// it may not be.

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <optional>
#include <random>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/base/spin.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/kill_test_util.h"
#include "mp/sync/lock.h"
#include "mp/testing/child.h"
#include "mp/testing/kill_stepper.h"
#include "mp/testing/process_test.h"
#include "mp/testing/shared_page.h"
#include "mp/testing/status_matchers.h"
#include "mp/testing/storm.h"

// Locks are taken in one process and released in another here.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

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

// What the lock protects. Equal unless a holder died between the two.
struct Pair {
  // Atomic only because of the compiler; each is one store.
  std::atomic<int64_t> first{0};
  std::atomic<int64_t> second{0};
};

void Add(Pair& pair) {
  pair.first.store(pair.first.load(std::memory_order_relaxed) + 1,
                   std::memory_order_relaxed);
  pair.second.store(pair.second.load(std::memory_order_relaxed) + 1,
                    std::memory_order_relaxed);
}
void RepairPair(Pair& pair) {
  pair.second.store(pair.first.load(std::memory_order_relaxed),
                    std::memory_order_relaxed);
}
void ExpectConsistent(const Pair& pair) {
  EXPECT_EQ(pair.first.load(std::memory_order_relaxed),
            pair.second.load(std::memory_order_relaxed));
}

class LockKillTest : public KillTest {
 protected:
  LockKillTest() { lock_.emplace(); }

  // What an operation returns is not asserted in the operation: the check shows
  // it, and the assertion would have more instructions than the lock.

  // As a survivor would: takes the lock, repairs if told to, and finds the pair
  // consistent.
  AcquireResult UseAsSurvivor() {
    const AcquireResult result = lock_->Acquire(kGenerous);
    EXPECT_TRUE(result);
    if (result == kOwnerDied) RepairPair(*pair_);
    ExpectConsistent(*pair_);
    if (result) {
      EXPECT_OK(lock_->Release());
    }
    return result;
  }

  void ExpectFreeAndWell() {
    EXPECT_FALSE(lock_->Locked());
    EXPECT_EQ(UseAsSurvivor(), kAcquired);
  }

  std::optional<Lock> lock_;
  SharedPage<Pair> pair_;
  SharedPage<std::atomic<bool>> sleeper_ready_;
  SharedPage<std::atomic<int>> sleeper_result_;
};

TEST_F(LockKillTest, AcquireOfAFreeLock) {
  Once acquired;
  Print("acquire, free",
        KillAtEveryInstruction({.prepare = [&] { lock_.emplace(); },
                                .op = [&] { lock_->Acquire(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      acquired.Expect(
                                          UseAsSurvivor() == kOwnerDied, point);
                                      ExpectFreeAndWell();
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
  EXPECT_TRUE(acquired.seen());
}

TEST_F(LockKillTest, AcquireWithTimeoutOfAFreeLock) {
  Once acquired;
  Print("acquire with timeout, free",
        KillAtEveryInstruction(
            {.prepare = [&] { lock_.emplace(); },
             .op = [&] { (void)lock_->Acquire(absl::Seconds(1)); },
             .check =
                 [&](const KillPoint& point) {
                   acquired.Expect(UseAsSurvivor() == kOwnerDied, point);
                   ExpectFreeAndWell();
                 },
             .first = AnyOf(kStride.quick),
             .stride = kStride.quick}));
}

TEST_F(LockKillTest, ReleaseWithoutSleepers) {
  Once released;
  Print("release, nobody asleep",
        KillAtEveryInstruction({.setup = [&] { lock_->Acquire(); },
                                .op = [&] { lock_->Release().IgnoreError(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      released.Expect(
                                          UseAsSurvivor() == kAcquired, point);
                                      ExpectFreeAndWell();
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
}

TEST_F(LockKillTest, AcquireChangeRelease) {
  int torn = 0;
  Print("acquire, change, release",
        KillAtEveryInstruction({.op =
                                    [&] {
                                      lock_->Acquire();
                                      Add(*pair_);
                                      lock_->Release().IgnoreError();
                                    },
                                .check =
                                    [&](const KillPoint& point) {
                                      torn +=
                                          pair_->first != pair_->second ? 1 : 0;
                                      const AcquireResult result =
                                          UseAsSurvivor();
                                      if (point.completed()) {
                                        EXPECT_EQ(result, kAcquired);
                                      }
                                      ExpectFreeAndWell();
                                    },
                                .first = AnyOf(kStride.quick),
                                .stride = kStride.quick}));
  EXPECT_GT(torn, 0) << "the test has not met the moment that matters";
}

// The sleeper gets the lock whether the holder dies before, within or after the
// release.
TEST_F(LockKillTest, ReleaseWithASleeper) {
  std::optional<ChildProcess> sleeper;
  Once released;
  Print("release, somebody asleep",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      // Also before the first run, which is not
                                      // checked.
                                      if (sleeper) sleeper->ExpectExit(0);
                                      lock_.emplace();
                                      *sleeper_ready_ = false;
                                      // Waits for the lock when somebody has
                                      // it.
                                      sleeper.emplace(ChildProcess::Start([&] {
                                        while (!lock_->Locked()) CpuRelax();
                                        *sleeper_ready_ = true;
                                        *sleeper_result_ =
                                            lock_->Acquire(kGenerous);
                                        EXPECT_OK(lock_->Release());
                                      }));
                                    },
                                .setup =
                                    [&] {
                                      lock_->Acquire();
                                      while (!*sleeper_ready_) CpuRelax();
                                      sleeper->WaitUntilAsleep();
                                    },
                                .op = [&] { lock_->Release().IgnoreError(); },
                                .check =
                                    [&](const KillPoint& point) {
                                      sleeper->ExpectExit(0);
                                      sleeper.reset();
                                      released.Expect(
                                          *sleeper_result_ == kAcquired, point);
                                      if (!released.seen()) {
                                        EXPECT_EQ(*sleeper_result_, kOwnerDied);
                                      }
                                      ExpectFreeAndWell();
                                    },
                                .first = AnyOf(kStride.slow),
                                .stride = kStride.slow}));
  sleeper.reset();
}

// Killed while it waits, or when it has just got the lock.
TEST_F(LockKillTest, AcquireOfAHeldLock) {
  bool released = false;
  int died_holding = 0;
  const KillReport report =
      KillAtEveryInstruction({.prepare =
                                  [&] {
                                    lock_.emplace();
                                    lock_->Acquire();
                                    released = false;
                                  },
                              .op = [&] { lock_->Acquire(); },
                              .unblock =
                                  [&] {
                                    if (!released) {
                                      EXPECT_OK(lock_->Release());
                                    }
                                    released = true;
                                  },
                              .check =
                                  [&](const KillPoint& point) {
                                    if (!released) {
                                      // Its death has not cost us the lock.
                                      EXPECT_FALSE(point.completed());
                                      EXPECT_TRUE(lock_->Locked());
                                      EXPECT_OK(lock_->Release());
                                      EXPECT_EQ(UseAsSurvivor(), kAcquired);
                                    } else if (UseAsSurvivor() == kOwnerDied) {
                                      ++died_holding;
                                    } else {
                                      EXPECT_FALSE(point.completed());
                                    }
                                    ExpectFreeAndWell();
                                  },
                              .first = AnyOf(kStride.slow),
                              .stride = kStride.slow});
  Print("acquire, held", report);
  EXPECT_GT(report.sleeps, 0);
  EXPECT_GT(died_holding, 0);
}

// The same with a second one asleep, whose wake-up the killed one may have got.
TEST_F(LockKillTest, AcquireOfAHeldLockBesideASleeper) {
  bool released = false;
  std::optional<ChildProcess> sleeper;
  const KillReport report = KillAtEveryInstruction(
      {.prepare =
           [&] {
             if (sleeper) {  // of the first run, which is not checked
               if (!released) {
                 EXPECT_OK(lock_->Release());
               }
               sleeper->ExpectExit(0);
             }
             lock_.emplace();
             lock_->Acquire();
             released = false;
             sleeper.emplace(ChildProcess::Start([&] {
               EXPECT_TRUE(lock_->Acquire(kGenerous));
               EXPECT_OK(lock_->Release());
             }));
             EXPECT_TRUE(sleeper->WaitUntilAsleep());
           },
       .op =
           [&] {
             lock_->Acquire();
             lock_->Release().IgnoreError();
           },
       .unblock =
           [&] {
             if (!released) {
               EXPECT_OK(lock_->Release());
             }
             released = true;
           },
       .check =
           [&](const KillPoint&) {
             if (!released) {
               EXPECT_OK(lock_->Release());
             }
             released = true;
             sleeper->ExpectExit(0);
             sleeper.reset();
             UseAsSurvivor();  // the killed one may have had it last
             ExpectFreeAndWell();
           },
       .first = AnyOf(kStride.sleepers),
       .stride = kStride.sleepers,
       .asleep_after = kAsleepAfter});
  Print("acquire, held, beside a sleeper", report);
}

// A timeout that passes, at each instruction of giving up.
TEST_F(LockKillTest, AcquireThatTimesOut) {
  Print(
      "acquire, timed out",
      KillAtEveryInstruction({.prepare =
                                  [&] {
                                    lock_.emplace();
                                    lock_->Acquire();
                                  },
                              .op =
                                  [&] {
                                    (void)lock_->Acquire(absl::ZeroDuration());
                                    (void)lock_->Acquire(absl::Nanoseconds(1));
                                  },
                              .check =
                                  [&](const KillPoint&) {
                                    EXPECT_OK(lock_->Release());
                                    ExpectFreeAndWell();
                                  },
                              .first = AnyOf(kStride.slow),
                              .stride = kStride.slow}));
}

// Every death hands the news on: the lock is repaired by whoever lives.
TEST_F(LockKillTest, TakeOverFromADeadHolder) {
  Print("take over from the dead",
        KillAtEveryInstruction({.prepare =
                                    [&] {
                                      lock_.emplace();
                                      ChildProcess::Start([&] {
                                        lock_->Acquire();
                                        pair_->first.fetch_add(1);
                                      }).ExpectExit(0);
                                    },
                                .op =
                                    [&] {
                                      EXPECT_EQ(lock_->Acquire(), kOwnerDied);
                                      RepairPair(*pair_);
                                    },
                                .check =
                                    [&](const KillPoint&) {
                                      EXPECT_EQ(UseAsSurvivor(), kOwnerDied);
                                      ExpectFreeAndWell();
                                    },
                                .first = AnyOf(kStride.slow),
                                .stride = kStride.slow}));
}

TEST_F(LockKillTest, TakeOverRepairAndRelease) {
  int repaired = 0;
  int left = 0;
  Print("take over, repair by callback, release",
        KillAtEveryInstruction(
            {.prepare =
                 [&] {
                   lock_.emplace();
                   ChildProcess::Start([&] {
                     lock_->Acquire();
                     pair_->first.fetch_add(1);
                   }).ExpectExit(0);
                   lock_->set_repair([&] { RepairPair(*pair_); });
                 },
             .op =
                 [&] {
                   lock_->lock();
                   lock_->unlock();
                 },
             .check =
                 [&](const KillPoint& point) {
                   const AcquireResult result = lock_->Acquire(kGenerous);
                   ASSERT_TRUE(result);
                   ExpectConsistent(*pair_);
                   EXPECT_OK(lock_->Release());
                   ++(result == kAcquired ? repaired : left);
                   if (point.completed()) {
                     EXPECT_EQ(result, kAcquired);
                   }
                   ExpectFreeAndWell();
                 },
             .first = AnyOf(kStride.slow),
             .stride = kStride.slow}));
  EXPECT_GT(repaired, 0);
  EXPECT_GT(left, 0);
}

// ---- The storm

struct StormState {
  Pair pair;
  std::atomic<int64_t> added{0};  // by workers that lived to say so
  std::atomic<int64_t> owner_deaths{0};
};

// `hold` is how long a holder works, at most.
void RunLockStorm(int kills, absl::Duration hold) {
  Lock lock;
  SharedPage<StormState> state;
  const auto critical_section = [&](AcquireResult result,
                                    std::mt19937_64& random) {
    if (result == kOwnerDied) {
      ++state->owner_deaths;
      RepairPair(state->pair);
    }
    ExpectConsistent(state->pair);
    const int64_t nanos = absl::ToInt64Nanoseconds(hold);
    const int64_t end = MonotonicNanos() +
                        static_cast<int64_t>(random()) % (nanos / 2 + 1) +
                        nanos / 2;
    // Half changed for a while.
    state->pair.first.store(state->pair.first.load() + 1);
    while (MonotonicNanos() < end) CpuRelax();
    state->pair.second.store(state->pair.second.load() + 1);
    ++state->added;
    EXPECT_OK(lock.Release());
  };

  Storm storm({.kills = kills});
  storm.AddRole("user", 4, [&](StormWorker& self) {
    std::mt19937_64 random(static_cast<uint64_t>(self.number()));
    critical_section(lock.Acquire(), random);
  });
  storm.AddRole("impatient user", 2, [&](StormWorker& self) {
    std::mt19937_64 random(static_cast<uint64_t>(self.number()));
    for (;;) {
      const AcquireResult result = lock.Acquire(absl::Microseconds(500));
      if (!result) continue;
      critical_section(result, random);
      return;
    }
  });
  const StormReport report = storm.Run();
  printf("%d kills: %lld critical sections, %lld holders died\n", report.kills,
         static_cast<long long>(state->added.load()),
         static_cast<long long>(state->owner_deaths.load()));
  EXPECT_EQ(report.kills, storm.kills());
  EXPECT_GT(state->owner_deaths, 0);

  const AcquireResult result = lock.Acquire(kGenerous);
  ASSERT_TRUE(result);
  if (result == kOwnerDied) RepairPair(state->pair);
  ExpectConsistent(state->pair);
  // No addition is lost or doubled, apart from those that a worker died in.
  const int64_t additions = state->pair.first;
  EXPECT_GE(additions, state->added);
  EXPECT_LE(additions,
            state->added + storm.kills() + 6);  // 6 were killed at the end
  EXPECT_OK(lock.Release());
}

class LockStormTest : public testing::ProcessTest {};

TEST_F(LockStormTest, WithShortCriticalSections) {
  RunLockStorm(700, absl::Microseconds(2));
}

TEST_F(LockStormTest, WithLongCriticalSections) {
  RunLockStorm(300, absl::Milliseconds(1));
}

}  // namespace
}  // namespace mp
