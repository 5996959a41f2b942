#include "mp/sync/in_place_semaphore.h"

#include <sys/mman.h>

#include <cstddef>
#include <cstdint>
#include <cstdio>

#include "absl/time/time.h"
#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/simulated_machine.h"

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillUnderEverySchedule;
using ::mp::testing::RunEverySchedule;
using ::mp::testing::SimulatedMachine;
using ::mp::testing::SimulatedPlatform;

class InPlaceSemaphoreTest : public testing::ProcessTest {
 protected:
  // In a mapping of the user's own: zero-filled, nothing constructed.
  InPlaceSemaphoreTest()
      : memory_(mmap(nullptr, sizeof(InPlaceSemaphore), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0)),
        semaphore_(*static_cast<InPlaceSemaphore*>(memory_)) {
    MP_PCHECK(memory_ != MAP_FAILED) << "mmap";
  }
  ~InPlaceSemaphoreTest() override {
    munmap(memory_, sizeof(InPlaceSemaphore));
  }

  void* const memory_;
  InPlaceSemaphore& semaphore_;
};

TEST_F(InPlaceSemaphoreTest, ZeroFilledMemoryHasNoPermits) {
  EXPECT_EQ(semaphore_.value(), 0u);
  EXPECT_FALSE(semaphore_.TryAcquire());
  EXPECT_FALSE(semaphore_.AcquireUntil(Deadline::Now()));
  EXPECT_TRUE(semaphore_.Release(2));
  EXPECT_EQ(semaphore_.value(), 2u);
  EXPECT_TRUE(semaphore_.TryAcquire());
  EXPECT_TRUE(semaphore_.AcquireUntil(Deadline::Now()));
  EXPECT_FALSE(semaphore_.TryAcquire());
}

TEST_F(InPlaceSemaphoreTest, ThereIsAMaximum) {
  EXPECT_TRUE(semaphore_.Release(3, /*max=*/3));
  EXPECT_FALSE(semaphore_.Release(1, /*max=*/3));
  EXPECT_FALSE(semaphore_.Release(1, /*max=*/2));
  EXPECT_EQ(semaphore_.value(), 3u);
  EXPECT_FALSE(semaphore_.Release(InPlaceSemaphore::kMaxValue - 2));
  EXPECT_TRUE(semaphore_.Release(InPlaceSemaphore::kMaxValue - 3));
  EXPECT_EQ(semaphore_.value(), InPlaceSemaphore::kMaxValue);
  EXPECT_FALSE(semaphore_.Release());
  EXPECT_FALSE(semaphore_.Release(UINT32_MAX));
  EXPECT_TRUE(semaphore_.TryAcquire());
}

TEST_F(InPlaceSemaphoreTest, WaitsForAPermit) {
  const Deadline soon = Deadline::After(absl::Milliseconds(20));
  EXPECT_FALSE(semaphore_.AcquireUntil(soon));
  EXPECT_TRUE(soon.Expired());
  auto child = ChildProcess::Start([&] { semaphore_.Acquire(); });
  ASSERT_TRUE(child.WaitUntilAsleep());
  EXPECT_TRUE(semaphore_.Release());
  child.ExpectExit(0);
  EXPECT_EQ(semaphore_.value(), 0u);
}

// ---- The algorithm on a simulated machine.

using Simulated = BasicInPlaceSemaphore<SimulatedPlatform>;

// Two that give permits, one or two at a time, and three that take them, as
// many in all.
TEST(InPlaceSemaphoreInterleavingsTest, NobodyNeedsTheEndOfASlice) {
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    Simulated semaphore;
    SimulatedMachine machine(seed);
    int taken = 0;
    const bool ended = machine.Run(5, /*kills=*/0, [&](size_t self) {
      for (int i = 0; i < 2; ++i) {
        if (self < 2) {
          EXPECT_TRUE(semaphore.Release(self == 0 ? 1 : 2));
        } else {
          EXPECT_TRUE(semaphore.AcquireUntil(Deadline::Infinite()));
          ++taken;
        }
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(taken, 6) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// A permit for each holder, and never more holders than permits.
TEST(InPlaceSemaphoreInterleavingsTest, LetsInAsManyAsThereArePermits) {
  constexpr int kPermits = 2;
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    Simulated semaphore(kPermits);
    SimulatedMachine machine(seed);
    int inside = 0;
    const bool ended = machine.Run(5, /*kills=*/0, [&](size_t) {
      for (int i = 0; i < 2; ++i) {
        EXPECT_TRUE(semaphore.AcquireUntil(Deadline::Infinite()));
        EXPECT_LE(++inside, kPermits);
        machine.Step();
        --inside;
        EXPECT_TRUE(semaphore.Release(1, kPermits));
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// Takers and givers are killed. The givers that are left give enough for
// everybody, and nobody is left asleep.
TEST(InPlaceSemaphoreInterleavingsTest, DeathsStrandNobody) {
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    Simulated semaphore;
    SimulatedMachine machine(seed);
    const bool ended = machine.Run(
        6, /*kills=*/1 + static_cast<int>(seed % 2), [&](size_t self) {
          if (self < 3) {  // more than are killed
            for (int i = 0; i < 3; ++i) EXPECT_TRUE(semaphore.Release());
          } else {
            EXPECT_TRUE(semaphore.AcquireUntil(Deadline::Infinite()));
          }
        });
    ASSERT_TRUE(ended) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// One gives two permits one by one, two take one each, and one more gives one
// for a taker that may die. Says how many schedules there were.
TEST(InPlaceSemaphoreInterleavingsTest, EverySchedule) {
  bool killed = false;
  const auto scenario = [&killed](SimulatedMachine& machine) {
    Simulated semaphore;
    EXPECT_TRUE(machine.Run(killed ? 4 : 3, /*kills=*/0, [&](size_t self) {
      if (self == 0 || self == 3) {
        EXPECT_TRUE(semaphore.Release());
        EXPECT_TRUE(semaphore.Release());
      } else {
        EXPECT_TRUE(semaphore.AcquireUntil(Deadline::Infinite()));
      }
    })) << "stuck";
    if (!killed) {
      EXPECT_EQ(machine.slices_ended(), 0);
    }
  };
  const int64_t alive = RunEverySchedule(/*preemptions=*/3, scenario);
  killed = true;
  const int64_t deaths =
      KillUnderEverySchedule(/*preemptions=*/1, /*victim=*/0, scenario) +
      KillUnderEverySchedule(/*preemptions=*/1, /*victim=*/1, scenario);
  printf("%lld schedules, %lld with a death\n", static_cast<long long>(alive),
         static_cast<long long>(deaths));
  EXPECT_GT(alive, 50);
  EXPECT_GT(deaths, 50);
}

}  // namespace
}  // namespace mp
