#include "mp/sync/in_place_event.h"

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

class InPlaceEventTest : public testing::ProcessTest {};

// In a mapping of the user's own: zero-filled, nothing constructed.
TEST_F(InPlaceEventTest, ZeroFilledMemoryIsAnEventThatIsNotSet) {
  void* const memory =
      mmap(nullptr, sizeof(InPlaceEvent), PROT_READ | PROT_WRITE,
           MAP_SHARED | MAP_ANONYMOUS, -1, 0);
  MP_PCHECK(memory != MAP_FAILED) << "mmap";
  auto* const event = static_cast<InPlaceEvent*>(memory);
  EXPECT_FALSE(event->IsSet());
  EXPECT_FALSE(event->WaitUntil(Deadline::Now()));
  EXPECT_FALSE(event->WaitUntil(Deadline::After(absl::Milliseconds(5))));
  auto child = ChildProcess::Start([event] { event->Wait(); });
  ASSERT_TRUE(child.WaitUntilAsleep());
  event->Set();
  child.ExpectExit(0);
  EXPECT_TRUE(event->WaitUntil(Deadline::Now()));
  munmap(memory, sizeof(InPlaceEvent));
}

// ---- The algorithm on a simulated machine.

struct Outcome {
  bool stuck = false;
  int slices_ended = 0;
  int waits = 0;
};

// One process sets and clears, `kSets` times; then it sets a last time. The
// others wait until then. Nobody may be killed who sets.
Outcome SetAndClear(uint64_t seed, int kills) {
  constexpr int kSets = 3;
  BasicInPlaceEvent<SimulatedPlatform> event;
  bool last = false;
  Outcome outcome;
  SimulatedMachine machine(seed);
  outcome.stuck = !machine.Run(4, kills, [&](size_t self) {
    if (self == 0) {
      for (int i = 0; i < kSets; ++i) {
        event.Set();
        event.Clear();
      }
      last = true;
      event.Set();
      return;
    }
    while (!last) {
      EXPECT_TRUE(event.WaitUntil(Deadline::Infinite()));
      ++outcome.waits;
    }
    EXPECT_TRUE(event.WaitUntil(Deadline::Infinite()));
  });
  outcome.slices_ended = machine.slices_ended();
  return outcome;
}

TEST(InPlaceEventInterleavingsTest, WithoutDeathsNobodyNeedsTheEndOfASlice) {
  int waits = 0;
  for (uint64_t seed = 0; seed < 5'000; ++seed) {
    const Outcome outcome = SetAndClear(seed, /*kills=*/0);
    ASSERT_FALSE(outcome.stuck) << seed;
    ASSERT_EQ(outcome.slices_ended, 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
    waits += outcome.waits;
  }
  EXPECT_GT(waits, 0);
}

// Though it may look again only when the event is clear.
TEST(InPlaceEventInterleavingsTest, APulseLetsGoWhoSleeps) {
  for (uint64_t seed = 0; seed < 5'000; ++seed) {
    BasicInPlaceEvent<SimulatedPlatform> event;
    SimulatedMachine machine(seed);
    const bool ended = machine.Run(3, /*kills=*/0, [&](size_t self) {
      if (self < 2) {
        EXPECT_TRUE(event.WaitUntil(Deadline::Infinite()));
      } else {
        while (!machine.IsAsleep(0) || !machine.IsAsleep(1)) machine.Step();
        event.Set();
        event.Clear();
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
  }
}

// Whoever is killed, the survivors go on once somebody sets the event.
TEST(InPlaceEventInterleavingsTest, DeathsStrandNobody) {
  for (uint64_t seed = 0; seed < 5'000; ++seed) {
    BasicInPlaceEvent<SimulatedPlatform> event;
    SimulatedMachine machine(seed);
    const bool ended = machine.Run(
        5, /*kills=*/1 + static_cast<int>(seed % 2), [&](size_t self) {
          for (int i = 0; i < 2; ++i) {
            if (self < 3) {  // more than are killed
              event.Set();
            } else {
              EXPECT_TRUE(event.WaitUntil(Deadline::Infinite()));
            }
          }
        });
    ASSERT_TRUE(ended) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// One sets the event, clears it and sets it again, and two wait for it. If
// somebody dies, there are two who set it once. Says how many schedules there
// were.
TEST(InPlaceEventInterleavingsTest, EverySchedule) {
  bool killed = false;
  const auto scenario = [&killed](SimulatedMachine& machine) {
    BasicInPlaceEvent<SimulatedPlatform> event;
    EXPECT_TRUE(machine.Run(killed ? 4 : 3, /*kills=*/0, [&](size_t self) {
      if (self == 0 && !killed) {
        event.Set();
        event.Clear();
        event.Set();
      } else if (self == 0 || self == 3) {
        event.Set();
      } else {
        EXPECT_TRUE(event.WaitUntil(Deadline::Infinite()));
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
      KillUnderEverySchedule(/*preemptions=*/1, /*victim=*/2, scenario);
  printf("%lld schedules, %lld with a death\n", static_cast<long long>(alive),
         static_cast<long long>(deaths));
  EXPECT_GT(alive, 50);
  EXPECT_GT(deaths, 50);
}

}  // namespace
}  // namespace mp
