#include "mp/testing/simulated_machine.h"

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <set>
#include <string>
#include <vector>

#include "absl/time/time.h"
#include "gmock/gmock.h"
#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"

namespace mp::testing {
namespace {

using ::testing::ElementsAre;

constexpr auto kRelaxed = std::memory_order_relaxed;

// What two processes come to that both add 1 with a load and a store.
uint32_t AddTwice(uint64_t seed) {
  SimulatedMachine machine(seed);
  SimulatedAtomic<uint32_t> count;
  EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t) {
    count.store(count.load(kRelaxed) + 1, kRelaxed);
  }));
  return count.peek();
}

TEST(SimulatedMachineTest, FindsALostUpdate) {
  int lost = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    const uint32_t count = AddTwice(seed);
    EXPECT_TRUE(count == 1 || count == 2) << count;
    lost += count == 1 ? 1 : 0;
  }
  EXPECT_GT(lost, 0);
  EXPECT_LT(lost, 100);
}

TEST(SimulatedMachineTest, ASeedRepeats) {
  const auto trace = [](uint64_t seed) {
    SimulatedMachine machine(seed);
    std::string order;
    machine.Run(4, /*kills=*/2, [&](size_t self) {
      for (int i = 0; i < 20; ++i) {
        machine.Step();
        order += static_cast<char>('a' + self);
      }
    });
    return order;
  };
  for (uint64_t seed = 0; seed < 20; ++seed) {
    EXPECT_EQ(trace(seed), trace(seed));
  }
  EXPECT_NE(trace(1), trace(2));
}

// A sleeper that looks before it says that it sleeps.
TEST(SimulatedMachineTest, FindsALostWakeUp) {
  int needed_a_slice = 0;
  for (uint64_t seed = 0; seed < 100; ++seed) {
    SimulatedMachine machine(seed);
    SimulatedAtomic<uint32_t> word;
    SimulatedAtomic<uint32_t> done;
    EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t self) {
      if (self == 0) {
        done.store(1, kRelaxed);
        SimulatedPlatform::Unpark(word, 1);
        return;
      }
      ParkSlices slices;
      while (done.load(kRelaxed) == 0) {
        SimulatedPlatform::Park(word, 0, kNoToken, Deadline::Infinite(),
                                slices);
      }
    }));
    needed_a_slice += machine.slices_ended() > 0 ? 1 : 0;
  }
  EXPECT_GT(needed_a_slice, 0);
  EXPECT_LT(needed_a_slice, 100);
}

TEST(SimulatedMachineTest, FindsWhoIsStuck) {
  SimulatedMachine machine(1);
  SimulatedAtomic<uint32_t> word;
  EXPECT_FALSE(machine.Run(2, /*kills=*/0, [&](size_t self) {
    ParkSlices slices;
    while (self == 0) {
      SimulatedPlatform::Park(word, 0, kNoToken, Deadline::Infinite(), slices);
    }
  }));
}

TEST(SimulatedMachineTest, KillsAndWakesWhoWatchedTheVictim) {
  int kills = 0;
  for (uint64_t seed = 0; seed < 200; ++seed) {
    SimulatedMachine machine(seed);
    SimulatedAtomic<uint32_t> word;
    bool ended[2] = {false, false};
    EXPECT_TRUE(machine.Run(2, /*kills=*/1, [&](size_t self) {
      if (self == 0) {
        for (int i = 0; i < 50; ++i) machine.Step();
      } else {
        ParkSlices slices;
        SimulatedPlatform::Park(word, 0, SimulatedMachine::TokenOf(0),
                                Deadline::Infinite(), slices);
        if (SimulatedPlatform::IsDead(SimulatedMachine::TokenOf(0))) {
          EXPECT_FALSE(ended[0]);
          ++kills;
        }
      }
      ended[self] = true;
    }));
  }
  EXPECT_GT(kills, 0);
}

// As in a process that is killed: nothing of the body is done any more.
TEST(SimulatedMachineTest, AKillRunsNoDestructor) {
  struct Guard {
    bool& destroyed;
    ~Guard() { destroyed = true; }
  };
  SimulatedMachine machine(1);
  machine.KillAt(0, 3);
  bool destroyed = false;
  int steps = 0;
  EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t self) {
    if (self == 1) return;
    const Guard guard{destroyed};
    for (;;) {
      machine.Step();
      ++steps;
    }
  }));
  EXPECT_EQ(steps, 2);
  EXPECT_TRUE(machine.WasKilled(0));
  EXPECT_FALSE(machine.WasKilled(1));
  EXPECT_FALSE(destroyed);
}

TEST(SimulatedMachineTest, KillsAtEveryStep) {
  std::vector<uint32_t> values;
  const int64_t deaths =
      KillAtEveryStep(/*seed=*/1, /*victim=*/1, [&](SimulatedMachine& machine) {
        SimulatedAtomic<uint32_t> word;
        EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t self) {
          if (self == 0) return;
          for (uint32_t i = 1; i <= 3; ++i) word.store(i, kRelaxed);
        }));
        values.push_back(word.peek());
      });
  EXPECT_EQ(deaths, 3);
  EXPECT_THAT(values, ElementsAre(0, 1, 2, 3));
}

TEST(SimulatedMachineTest, AWeakCompareExchangeFailsNowAndThen) {
  SimulatedMachine machine(1);
  SimulatedAtomic<uint32_t> word;
  int failed = 0;
  EXPECT_TRUE(machine.Run(1, /*kills=*/0, [&](size_t) {
    for (uint32_t i = 0; i < 100; ++i) {
      uint32_t expected = i;
      while (!word.compare_exchange_weak(expected, i + 1, kRelaxed, kRelaxed)) {
        EXPECT_EQ(expected, i);
        ++failed;
      }
    }
  }));
  EXPECT_EQ(word.peek(), 100u);
  EXPECT_GT(failed, 0);
  EXPECT_LT(failed, 100);
}

// Without a preemption one comes after the other; with one, either loses an
// update or not, and nothing is left out.
TEST(SimulatedMachineTest, EveryScheduleIsTriedOnce) {
  const auto counts = [](int preemptions) {
    std::multiset<std::string> orders;
    const int64_t schedules =
        RunEverySchedule(preemptions, [&](SimulatedMachine& machine) {
          std::string order;
          EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t self) {
            for (int i = 0; i < 2; ++i) {
              machine.Step();
              order += self == 0 ? 'a' : 'b';
            }
          }));
          orders.insert(order);
        });
    EXPECT_EQ(static_cast<size_t>(schedules), orders.size());
    return std::set<std::string>(orders.begin(), orders.end());
  };
  EXPECT_THAT(counts(0), ElementsAre("aabb", "bbaa"));
  EXPECT_THAT(counts(4),
              ElementsAre("aabb", "abab", "abba", "baab", "baba", "bbaa"));
}

TEST(SimulatedMachineTest, AFewPreemptionsFindALostUpdate) {
  for (const int preemptions : {0, 2}) {
    bool lost = false;
    RunEverySchedule(preemptions, [&](SimulatedMachine& machine) {
      SimulatedAtomic<uint32_t> count;
      EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t) {
        count.store(count.load(kRelaxed) + 1, kRelaxed);
      }));
      lost |= count.peek() == 1;
    });
    EXPECT_EQ(lost, preemptions > 0);
  }
}

TEST(SimulatedMachineTest, KillsUnderEverySchedule) {
  std::set<int> done;
  const int64_t schedules = KillUnderEverySchedule(
      /*preemptions=*/2, /*victim=*/0, [&](SimulatedMachine& machine) {
        int steps = 0;
        EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t self) {
          for (int i = 0; i < 3; ++i) {
            machine.Step();
            if (self == 0) ++steps;
          }
        }));
        done.insert(steps);
      });
  EXPECT_THAT(done, ElementsAre(0, 1, 2, 3));
  EXPECT_GT(schedules, 20);
}

// The clock is the machine's: a run with timeouts repeats, and takes no time.
TEST(SimulatedMachineTest, TimePassesWhenNobodyCanGoOn) {
  const int64_t before = MonotonicNanos();
  for (uint64_t seed = 0; seed < 10; ++seed) {
    SimulatedMachine machine(seed);
    SimulatedAtomic<uint32_t> word;
    EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t self) {
      const int64_t hours = 1 + static_cast<int64_t>(self);
      const Deadline deadline = Deadline::After(absl::Hours(hours));
      const int64_t start = MonotonicNanos();
      ParkSlices slices;
      EXPECT_EQ(SimulatedPlatform::Park(word, 0, kNoToken, deadline, slices),
                ParkResult::kTimedOut);
      EXPECT_GE(absl::Nanoseconds(MonotonicNanos() - start),
                absl::Hours(hours) - absl::Milliseconds(1));
    }));
    EXPECT_EQ(machine.slices_ended(), 0);
  }
  EXPECT_LT(absl::Nanoseconds(MonotonicNanos() - before), absl::Hours(1));
}

TEST(SimulatedMachineTest, WhoIsBusyForEverIsStuck) {
  SimulatedMachine machine(1);
  EXPECT_FALSE(machine.Run(2, /*kills=*/0, [&](size_t self) {
    while (self == 0) machine.Step();
  }));
}

}  // namespace
}  // namespace mp::testing
