// The algorithm on a simulated machine. What users see is in barrier_test.cc.

#include "mp/sync/barrier_state.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <vector>

#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/shm/park.h"
#include "mp/testing/simulated_machine.h"

namespace mp {
namespace {

using ::mp::testing::KillAtEveryStep;
using ::mp::testing::KillUnderEverySchedule;
using ::mp::testing::RunEverySchedule;
using ::mp::testing::SimulatedAtomic;
using ::mp::testing::SimulatedMachine;
using ::mp::testing::SimulatedPlatform;

using Simulated = BasicBarrierState<SimulatedPlatform>;

// With its entries behind it.
class Instance {
 public:
  explicit Instance(uint32_t parties)
      : memory_((sizeof(Simulated) + parties * sizeof(Simulated::Entry)) / 4) {
    auto* const bytes = reinterpret_cast<std::byte*>(memory_.data());
    barrier_ = new (bytes) Simulated(parties);
    new (bytes + sizeof(Simulated)) Simulated::Entry[parties]();
  }

  Simulated* operator->() { return barrier_; }
  Token entry(size_t i) const {
    return reinterpret_cast<const Simulated::Entry*>(barrier_ + 1)[i].peek();
  }

 private:
  std::vector<uint32_t> memory_;
  Simulated* barrier_;
};

using Action = void (*)();
constexpr const Action* kNoAction = nullptr;

// Nobody is let through before all have come, each has another place, and the
// action runs once a round.
TEST(BarrierStateInterleavingsTest, Rounds) {
  constexpr size_t kParties = 3;
  constexpr int kRounds = 3;
  for (uint64_t seed = 0; seed < 1'500; ++seed) {
    Instance barrier(kParties);
    SimulatedMachine machine(seed);
    const bool with_action = seed % 2 == 0;
    int came[kRounds] = {};
    int places[kRounds] = {};
    int acted[kRounds] = {};
    const bool ended = machine.Run(kParties, /*kills=*/0, [&](size_t) {
      for (int round = 0; round < kRounds; ++round) {
        ++came[round];
        const auto action = [&] {
          EXPECT_EQ(came[round], 3);
          machine.Step();
          ++acted[round];
        };
        const int place = barrier->Wait(with_action ? &action : nullptr,
                                        Deadline::Infinite());
        EXPECT_EQ(came[round], 3);
        EXPECT_EQ(acted[round], with_action ? 1 : 0);
        ASSERT_GE(place, 0);
        places[round] |= 1 << place;
      }
    });
    ASSERT_TRUE(ended) << seed;
    for (const int all : places) EXPECT_EQ(all, 7);
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// More come than there are parties: two rounds of two.
TEST(BarrierStateInterleavingsTest, MoreUsersThanParties) {
  for (uint64_t seed = 0; seed < 1'500; ++seed) {
    Instance barrier(2);
    SimulatedMachine machine(seed);
    int places[2] = {};
    const bool ended = machine.Run(4, /*kills=*/0, [&](size_t) {
      const int place = barrier->Wait(kNoAction, Deadline::Infinite());
      ASSERT_GE(place, 0);
      ++places[place];
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(places[0], 2) << seed;
    ASSERT_EQ(places[1], 2) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

TEST(BarrierStateInterleavingsTest, ABrokenBarrierLetsNobodyPass) {
  for (uint64_t seed = 0; seed < 1'500; ++seed) {
    Instance barrier(3);
    SimulatedMachine machine(seed);
    const bool ended = machine.Run(3, /*kills=*/0, [&](size_t self) {
      if (self == 0) {
        barrier->Abort();
      } else {
        EXPECT_EQ(barrier->Wait(kNoAction, Deadline::Infinite()),
                  kBarrierBroken);
      }
      EXPECT_TRUE(barrier->broken());
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// Who is inside leaves with an error, and the next round is for all again.
TEST(BarrierStateInterleavingsTest, AResetMendsIt) {
  for (uint64_t seed = 0; seed < 1'500; ++seed) {
    Instance barrier(3);
    SimulatedMachine machine(seed);
    const bool broken = seed % 2 == 0;
    const bool ended = machine.Run(3, /*kills=*/0, [&](size_t self) {
      if (self == 0) {
        while (barrier->waiting() < 2) machine.Step();
        if (broken) barrier->Abort();
        barrier->Reset();
      } else {
        EXPECT_EQ(barrier->Wait(kNoAction, Deadline::Infinite()),
                  kBarrierBroken);
      }
      // It may be broken still for who comes before the reset.
      int place = kBarrierBroken;
      while (place == kBarrierBroken) {
        place = barrier->Wait(kNoAction, Deadline::Infinite());
      }
      EXPECT_GE(place, 0);
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

TEST(BarrierStateInterleavingsTest, ATimeoutBreaksIt) {
  for (uint64_t seed = 0; seed < 1'500; ++seed) {
    Instance barrier(3);
    SimulatedMachine machine(seed);
    int timed_out = 0;
    const bool ended = machine.Run(2, /*kills=*/0, [&](size_t self) {
      const int result = barrier->Wait(
          kNoAction, self == 0 ? Deadline::Now() : Deadline::Infinite());
      EXPECT_LT(result, 0);
      timed_out += result == kBarrierTimedOut ? 1 : 0;
      EXPECT_TRUE(barrier->broken());
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(timed_out, 1) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
  }
}

// A party dies, wherever. If it was inside, the others learn that by
// themselves; if not, a fourth process tells them that it will not come.
void DieInARound(SimulatedMachine& machine, uint32_t victim, bool with_action) {
  constexpr uint32_t kParties = 3;
  Instance barrier(kParties);
  SimulatedAtomic<uint32_t> done;
  int came[2] = {};
  const auto is_inside = [&](Token token) {
    for (uint32_t i = 0; i < kParties; ++i) {
      if (barrier.entry(i) == token) return true;
    }
    return false;
  };
  EXPECT_TRUE(machine.Run(kParties + 1, /*kills=*/0, [&](size_t self) {
    const Token token = SimulatedMachine::TokenOf(victim);
    if (self == kParties) {
      ParkSlices slices;
      while (done.load(std::memory_order_relaxed) == 0 &&
             !machine.IsDead(token)) {
        SimulatedPlatform::Park(done, 0, token, Deadline::Infinite(), slices);
      }
      if (machine.IsDead(token) && !is_inside(token)) barrier->Abort();
      return;
    }
    for (int& in_this_round : came) {
      ++in_this_round;
      const auto action = [&] { machine.Step(); };
      const int place =
          barrier->Wait(with_action ? &action : nullptr, Deadline::Infinite());
      if (place < 0) break;
      EXPECT_EQ(in_this_round, 3) << "passed before all had come";
    }
    if (self == victim) {
      done.store(1, std::memory_order_relaxed);
      SimulatedPlatform::Unpark(done, 1);
    }
  }));
}

TEST(BarrierStateInterleavingsTest, ADeathAtEveryStep) {
  int64_t deaths = 0;
  for (uint64_t seed = 0; seed < 90; ++seed) {
    const uint32_t victim = seed % 3;
    deaths += KillAtEveryStep(seed, victim, [&](SimulatedMachine& machine) {
      DieInARound(machine, victim, /*with_action=*/seed % 2 == 0);
    });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  EXPECT_GT(deaths, 300);
}

// A party dies, wherever, and another one comes in its place: as in a program
// that restarts its workers, nobody else has to do anything.
TEST(BarrierStateInterleavingsTest, TheDeadAreReplaced) {
  constexpr size_t kVictim = 0;
  constexpr size_t kSurvivor = 1;
  int64_t deaths = 0;
  for (uint64_t seed = 0; seed < 60; ++seed) {
    deaths += KillAtEveryStep(seed, kVictim, [&](SimulatedMachine& machine) {
      Instance barrier(2);
      SimulatedAtomic<uint32_t> done, stop;
      const auto wait_or_mend = [&] {
        const bool passed = barrier->Wait(kNoAction, Deadline::Infinite()) >= 0;
        if (!passed) barrier->Reset();
        return passed;
      };
      EXPECT_TRUE(machine.Run(3, /*kills=*/0, [&](size_t self) {
        if (self == kVictim) {
          for (int round = 0; round < 2; ++round) wait_or_mend();
          done.store(1, std::memory_order_relaxed);
          SimulatedPlatform::Unpark(done, 1);
        } else if (self == kSurvivor) {
          while (stop.load(std::memory_order_relaxed) == 0) wait_or_mend();
        } else {  // the replacement
          const Token victim = SimulatedMachine::TokenOf(kVictim);
          ParkSlices slices;
          while (done.load(std::memory_order_relaxed) == 0 &&
                 !machine.IsDead(victim)) {
            SimulatedPlatform::Park(done, 0, victim, Deadline::Infinite(),
                                    slices);
          }
          while (!wait_or_mend()) {
          }
          stop.store(1, std::memory_order_relaxed);
          barrier->Abort();
        }
      })) << "stuck";
    });
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
  EXPECT_GT(deaths, 300);
}

// Two parties, twice. Says how many schedules there were.
TEST(BarrierStateInterleavingsTest, EverySchedule) {
  const int64_t alive =
      RunEverySchedule(/*preemptions=*/2, [](SimulatedMachine& machine) {
        Instance barrier(2);
        int came = 0;
        EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t) {
          for (int round = 1; round <= 2; ++round) {
            ++came;
            EXPECT_GE(barrier->Wait(kNoAction, Deadline::Infinite()), 0);
            EXPECT_GE(came, 2 * round);
          }
        })) << "stuck";
        EXPECT_EQ(machine.slices_ended(), 0);
      });
  const int64_t deaths = KillUnderEverySchedule(
      /*preemptions=*/0, /*victim=*/0, [](SimulatedMachine& machine) {
        DieInARound(machine, /*victim=*/0, /*with_action=*/true);
      });
  printf("%lld schedules, %lld with a death\n", static_cast<long long>(alive),
         static_cast<long long>(deaths));
  EXPECT_GT(alive, 50);
  EXPECT_GT(deaths, 50);
}

}  // namespace
}  // namespace mp
