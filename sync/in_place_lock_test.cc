#include "mp/sync/in_place_lock.h"

#include <sys/mman.h>

#include <atomic>
#include <condition_variable>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <memory>
#include <mutex>
#include <optional>
#include <type_traits>
#include <vector>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/shm/segment.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/simulated_machine.h"
#include "mp/testing/status_matchers.h"

// Locks are taken in one process and released in another here.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillUnderEverySchedule;
using ::mp::testing::RunEverySchedule;
using ::mp::testing::SimulatedMachine;
using ::mp::testing::SimulatedPlatform;

struct Account {
  InPlaceLock lock;
  int64_t balance;
};
static_assert(std::is_standard_layout_v<Account>);
static_assert(sizeof(Account) == 24);

// An account in a mapping of the user's own: zero-filled, nothing constructed.
class InPlaceLockTest : public testing::ProcessTest {
 protected:
  InPlaceLockTest() {
    void* const memory = mmap(nullptr, sizeof(Account), PROT_READ | PROT_WRITE,
                              MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    MP_PCHECK(memory != MAP_FAILED) << "mmap";
    account_ = static_cast<Account*>(memory);
  }
  ~InPlaceLockTest() override { munmap(account_, sizeof(Account)); }

  // A child dies with the lock.
  void LeaveItHeld() {
    ChildProcess::Start([this] { account_->lock.Acquire(); }).ExpectExit(0);
  }

  Account* account_;
};

TEST_F(InPlaceLockTest, ZeroFilledMemoryIsAFreeLock) {
  InPlaceLock& lock = account_->lock;
  EXPECT_FALSE(lock.IsHeld());
  EXPECT_EQ(lock.owner(), kNoToken);
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_TRUE(lock.IsHeld());
  EXPECT_EQ(lock.owner(), Liveness::Self());
  EXPECT_FALSE(lock.TryAcquire());
  EXPECT_TRUE(lock.Release());
  EXPECT_FALSE(lock.Release());
  EXPECT_EQ(lock.owner(), kNoToken);
  // Free again means zero: nothing stays in the word.
  uint32_t word;
  std::memcpy(&word, &lock, sizeof(word));
  EXPECT_EQ(word, 0u);
}

TEST_F(InPlaceLockTest, WorksInASegmentAndBetweenProcesses) {
  ASSERT_OK_AND_ASSIGN(
      const std::shared_ptr<Segment> segment,
      Segment::Create({.name = "account", .layout = 1, .size = 1 << 12}));
  auto* const account = reinterpret_cast<Account*>(segment->data());
  constexpr int kProcesses = 3;
  constexpr int kTimes = 20'000;
  std::vector<ChildProcess> children;
  for (int i = 0; i < kProcesses; ++i) {
    children.push_back(ChildProcess::Start([account] {
      for (int n = 0; n < kTimes; ++n) {
        const std::lock_guard<InPlaceLock> hold(account->lock);
        ++account->balance;
      }
    }));
  }
  for (ChildProcess& child : children) child.ExpectExit(0);
  EXPECT_EQ(account->balance, kProcesses * kTimes);
}

TEST_F(InPlaceLockTest, Deadlines) {
  InPlaceLock& lock = account_->lock;
  EXPECT_EQ(lock.AcquireUntil(Deadline::Now()), kAcquired);
  EXPECT_EQ(lock.AcquireUntil(Deadline::Now()), kTimedOut);
  const int64_t begin = MonotonicNanos();
  EXPECT_EQ(lock.AcquireUntil(Deadline::After(absl::Milliseconds(15))),
            kTimedOut);
  EXPECT_GE(MonotonicNanos() - begin, 15'000'000);
  EXPECT_EQ(lock.AcquireUntil(Deadline::AtNanos(begin)), kTimedOut);  // past
  EXPECT_TRUE(lock.Release());
  EXPECT_EQ(lock.AcquireUntil(Deadline::Infinite()), kAcquired);
  EXPECT_TRUE(lock.Release());
}

TEST_F(InPlaceLockTest, TryAcquireDoesNotTakeOverAndAnExpiredDeadlineDoes) {
  LeaveItHeld();
  InPlaceLock& lock = account_->lock;
  EXPECT_FALSE(lock.TryAcquire());
  EXPECT_EQ(lock.AcquireUntil(Deadline::Now()), kOwnerDied);
  EXPECT_TRUE(lock.Release());
}

TEST_F(InPlaceLockTest, TryLockTakesOver) {
  LeaveItHeld();
  InPlaceLock& lock = account_->lock;
  EXPECT_TRUE(lock.try_lock());
  EXPECT_FALSE(lock.try_lock());
  lock.unlock();
}

TEST_F(InPlaceLockTest, ReleasedUnrepairedLooksLikeADeath) {
  InPlaceLock& lock = account_->lock;
  lock.Acquire();
  auto waiter = ChildProcess::Start([&] {
    EXPECT_EQ(lock.Acquire(), kOwnerDied);
    EXPECT_TRUE(lock.Release());
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  lock.ReleaseUnrepaired();
  waiter.ExpectExit(0);
  EXPECT_FALSE(lock.IsHeld());
  // Nobody waits: the next one is told.
  lock.Acquire();
  lock.ReleaseUnrepaired();
  EXPECT_TRUE(lock.IsHeld());
  EXPECT_EQ(lock.Acquire(), kOwnerDied);
  EXPECT_TRUE(lock.Release());
  EXPECT_EQ(lock.Acquire(), kAcquired);
  EXPECT_TRUE(lock.Release());
}

TEST_F(InPlaceLockTest, OnlyTheHolderReleasesUnrepaired) {
  EXPECT_DEATH(account_->lock.ReleaseUnrepaired(), "not the holder");
}

TEST_F(InPlaceLockTest, UnlockOfAFreeLockAborts) {
  EXPECT_DEATH(account_->lock.unlock(), "nobody alive holds");
}

// ---- Interleavings
//
// The lock's algorithm on a simulated machine. In a run without kills nobody
// may depend on the end of a slice.

struct Outcome {
  bool stuck = false;
  int slices_ended = 0;
  int owner_deaths = 0;
  int timeouts = 0;
};

// Some processes use one lock; `kills` of them are killed.
Outcome Simulate(uint64_t seed, int kills, bool with_timeouts) {
  constexpr size_t kProcesses = 4;
  BasicInPlaceLock<SimulatedPlatform> lock;
  Outcome outcome;
  std::optional<size_t> holder;
  bool half_done = false;  // a holder died and nobody has been told yet
  int between = 0;         // holders that died in Acquire or Release
  SimulatedMachine machine(seed);
  outcome.stuck = !machine.Run(kProcesses, kills, [&](size_t self) {
    for (int i = 0; i < 3; ++i) {
      AcquireResult result;
      if (with_timeouts && machine.Chance(2)) {
        // Will have passed by when it has slept, but perhaps not before.
        result = lock.AcquireUntil(
            Deadline::AtNanos(MonotonicNanos() + machine.Random(300'000)));
      } else {
        result = lock.Acquire();
      }
      if (!result) {
        ++outcome.timeouts;
        continue;
      }
      if (holder.has_value()) {
        EXPECT_TRUE(machine.IsDead(SimulatedMachine::TokenOf(*holder)))
            << "two holders";
        half_done = true;
      }
      if (half_done) {
        EXPECT_EQ(result, kOwnerDied);
      } else if (result == kOwnerDied) {
        ++between;
      }
      half_done = false;
      if (result == kOwnerDied) ++outcome.owner_deaths;
      holder = self;
      for (int n = 0; n < 3; ++n) machine.Step();  // may die here
      EXPECT_EQ(holder, self);
      if (machine.Chance(10)) {
        half_done = true;
        holder.reset();
        lock.ReleaseUnrepaired();
      } else {
        holder.reset();
        if (!lock.Release()) ADD_FAILURE() << "was not held";
      }
    }
  });
  EXPECT_LE(between, kills);
  outcome.slices_ended = machine.slices_ended();
  return outcome;
}

TEST(InPlaceLockInterleavingsTest, WithoutDeathsNobodyNeedsTheEndOfASlice) {
  for (uint64_t seed = 0; seed < 3'000; ++seed) {
    const Outcome outcome = Simulate(seed, /*kills=*/0, /*timeouts=*/false);
    ASSERT_FALSE(outcome.stuck) << seed;
    ASSERT_EQ(outcome.slices_ended, 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

TEST(InPlaceLockInterleavingsTest, TimeoutsStrandNobody) {
  int timeouts = 0;
  for (uint64_t seed = 0; seed < 3'000; ++seed) {
    const Outcome outcome = Simulate(seed, /*kills=*/0, /*timeouts=*/true);
    ASSERT_FALSE(outcome.stuck) << seed;
    ASSERT_EQ(outcome.slices_ended, 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
    timeouts += outcome.timeouts;
  }
  EXPECT_GT(timeouts, 0);
}

TEST(InPlaceLockInterleavingsTest, DeathsStrandNobody) {
  int owner_deaths = 0;
  int healed = 0;
  for (uint64_t seed = 0; seed < 6'000; ++seed) {
    const Outcome outcome =
        Simulate(seed, /*kills=*/1 + static_cast<int>(seed % 3),
                 /*timeouts=*/seed % 2 == 0);
    ASSERT_FALSE(outcome.stuck) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
    owner_deaths += outcome.owner_deaths;
    healed += outcome.slices_ended > 0 ? 1 : 0;
  }
  EXPECT_GT(owner_deaths, 0);
  // Some of the deaths took a wake-up with them, and the slices mended it.
  EXPECT_GT(healed, 0);
}

// Three processes acquire the lock once each. Says how many schedules there
// were.
TEST(InPlaceLockInterleavingsTest, EverySchedule) {
  bool killed = false;
  const auto scenario = [&killed](SimulatedMachine& machine) {
    BasicInPlaceLock<SimulatedPlatform> lock;
    std::optional<size_t> holder;
    EXPECT_TRUE(machine.Run(3, /*kills=*/0, [&](size_t self) {
      const AcquireResult result = lock.Acquire();
      if (holder.has_value()) {
        EXPECT_TRUE(machine.WasKilled(*holder)) << "two holders";
        EXPECT_EQ(result, kOwnerDied);
      }
      holder = self;
      machine.Step();
      EXPECT_EQ(holder, self);
      holder.reset();
      EXPECT_TRUE(lock.Release());
    })) << "stuck";
    if (!killed) {
      EXPECT_EQ(machine.slices_ended(), 0);
    }
  };
  const int64_t alive = RunEverySchedule(/*preemptions=*/4, scenario);
  killed = true;
  const int64_t deaths = KillUnderEverySchedule(3, /*victim=*/0, scenario);
  printf("%lld schedules, %lld with a death\n", static_cast<long long>(alive),
         static_cast<long long>(deaths));
  EXPECT_GT(alive, 50);
  EXPECT_GT(deaths, 50);
}

}  // namespace
}  // namespace mp
