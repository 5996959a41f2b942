// The algorithm on a simulated machine. What users see is in semaphore_test.cc.

#include "mp/sync/robust_semaphore.h"

#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <new>
#include <vector>

#include "gtest/gtest.h"
#include "mp/base/deadline.h"
#include "mp/testing/simulated_machine.h"

namespace mp {
namespace {

using ::mp::testing::KillAtEveryStep;
using ::mp::testing::KillUnderEverySchedule;
using ::mp::testing::RunEverySchedule;
using ::mp::testing::SimulatedMachine;
using ::mp::testing::SimulatedPlatform;

using Simulated = BasicRobustSemaphore<SimulatedPlatform>;

// With its accounts behind it.
class Instance {
 public:
  Instance(uint32_t value, uint32_t max, uint32_t accounts)
      : memory_((sizeof(Simulated) + accounts * sizeof(Simulated::Account)) /
                8) {
    auto* const bytes = reinterpret_cast<std::byte*>(memory_.data());
    semaphore_ = new (bytes) Simulated(value, max, accounts);
    new (bytes + sizeof(Simulated)) Simulated::Account[accounts]();
  }

  Simulated& operator*() { return *semaphore_; }
  Simulated* operator->() { return semaphore_; }

 private:
  std::vector<uint64_t> memory_;
  Simulated* semaphore_;
};

// Four take permits and give them back; `kills` of them are killed. The last
// one counts the permits: all are there, also those of the dead. True if it
// has, and was not killed.
bool TakeAndGiveBack(SimulatedMachine& machine, int kills, uint32_t permits,
                     uint32_t accounts) {
  constexpr size_t kProcesses = 4;
  Instance semaphore(permits, permits, accounts);
  uint32_t has[kProcesses] = {};
  bool done[kProcesses] = {};
  const auto dead = [&](size_t process) {
    return machine.IsDead(SimulatedMachine::TokenOf(process));
  };
  const auto got_one = [&](size_t self) {
    ++has[self];
    uint32_t held = 0;
    for (size_t process = 0; process < kProcesses; ++process) {
      if (!dead(process)) held += has[process];
    }
    EXPECT_LE(held, permits) << "a permit has doubled";
    machine.Step();  // may die here
  };
  bool counted = false;
  const bool ended = machine.Run(kProcesses, kills, [&](size_t self) {
    for (int i = 0; i < 2; ++i) {
      // One is impatient, one wants two.
      const bool impatient = self == 1;
      const bool got = semaphore->LockUntil(impatient ? Deadline::Now()
                                                      : Deadline::Infinite());
      EXPECT_TRUE(got || impatient);
      if (got) got_one(self);
      if (self == 0 && semaphore->LockUntil(Deadline::Now())) got_one(self);
      while (has[self] > 0) {
        --has[self];
        EXPECT_TRUE(semaphore->Unlock());
      }
      EXPECT_FALSE(semaphore->Unlock());
    }
    done[self] = true;
    for (size_t process = 0; process < kProcesses; ++process) {
      if (!done[process] && !dead(process)) return;
    }
    for (uint32_t permit = 0; permit < permits; ++permit) {
      EXPECT_TRUE(semaphore->LockUntil(Deadline::Now())) << "lost a permit";
    }
    EXPECT_FALSE(semaphore->LockUntil(Deadline::Now()));
    counted = true;
  });
  EXPECT_TRUE(ended);
  return counted;
}

TEST(RobustSemaphoreInterleavingsTest, WithoutDeaths) {
  for (uint64_t seed = 0; seed < 1'000; ++seed) {
    SimulatedMachine machine(seed);
    EXPECT_TRUE(
        TakeAndGiveBack(machine, /*kills=*/0, /*permits=*/2, /*accounts=*/4));
    EXPECT_EQ(machine.slices_ended(), 0);
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

TEST(RobustSemaphoreInterleavingsTest, PermitsOfTheDeadComeBack) {
  int counted = 0;
  for (uint64_t seed = 0; seed < 3'000; ++seed) {
    const int kills = 1 + static_cast<int>(seed % 3);
    const uint32_t permits = seed % 2 == 0 ? 1 : 2;
    SimulatedMachine machine(seed);
    if (TakeAndGiveBack(machine, kills, permits, /*accounts=*/4)) ++counted;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
  EXPECT_GT(counted, 1'000);
}

TEST(RobustSemaphoreInterleavingsTest, ADeathAtEveryStep) {
  int64_t deaths = 0;
  for (uint64_t seed = 0; seed < 30; ++seed) {
    const uint32_t permits = seed % 2 == 0 ? 1 : 2;
    deaths += KillAtEveryStep(seed, /*victim=*/seed / 2 % 3,
                              [&](SimulatedMachine& machine) {
                                TakeAndGiveBack(machine, /*kills=*/0, permits,
                                                /*accounts=*/4);
                              });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  printf("%lld deaths\n", static_cast<long long>(deaths));
  EXPECT_GT(deaths, 300);
}

// Only the dead could have let the other one in.
TEST(RobustSemaphoreInterleavingsTest, ADeathAtEveryStepWithTheOnlyPermit) {
  for (uint64_t seed = 0; seed < 100; ++seed) {
    KillAtEveryStep(seed, /*victim=*/0, [&](SimulatedMachine& machine) {
      Instance semaphore(1, 1, /*accounts=*/2);
      EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t) {
        for (int i = 0; i < 2; ++i) {
          EXPECT_TRUE(semaphore->LockUntil(Deadline::Infinite()));
          EXPECT_TRUE(semaphore->Unlock());
        }
      }));
    });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

// When the permit has gone before it could be put on the account.
TEST(RobustSemaphoreInterleavingsTest, AFailureLeavesNoAccount) {
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    Instance semaphore(1, 1, /*accounts=*/1);
    SimulatedMachine machine(seed);
    ASSERT_TRUE(machine.Run(3, /*kills=*/0, [&](size_t self) {
      if (self == 0) {
        if (semaphore->LockUntil(Deadline::Now())) {
          EXPECT_TRUE(semaphore->Unlock());
        }
      } else if (self == 1) {
        EXPECT_TRUE(semaphore->AcquireUntil(Deadline::Infinite()));
        EXPECT_TRUE(semaphore->Release(1));
      } else {
        EXPECT_TRUE(semaphore->LockUntil(Deadline::Infinite()));
        EXPECT_TRUE(semaphore->Unlock());
      }
    })) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// One or two of four have an account at a time, and the dead ones' are used
// again.
TEST(RobustSemaphoreInterleavingsTest, FewAccounts) {
  for (uint64_t seed = 0; seed < 1'500; ++seed) {
    SimulatedMachine machine(seed);
    TakeAndGiveBack(machine, /*kills=*/static_cast<int>(seed % 3),
                    /*permits=*/2, /*accounts=*/1 + seed / 3 % 2);
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// All permits come at once, and nobody gives one back.
TEST(RobustSemaphoreInterleavingsTest, AReleaseOfManyLetsAsManyGo) {
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    Instance semaphore(0, 3, /*accounts=*/4);
    SimulatedMachine machine(seed);
    const bool ended = machine.Run(4, /*kills=*/0, [&](size_t self) {
      if (self == 0) {
        EXPECT_TRUE(semaphore->Release(3));
      } else if (self == 1) {
        EXPECT_TRUE(semaphore->AcquireUntil(Deadline::Infinite()));
      } else {
        EXPECT_TRUE(semaphore->LockUntil(Deadline::Infinite()));
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
  }
}

// Anonymous permits come and go while transfers are under way.
TEST(RobustSemaphoreInterleavingsTest, BothKindsOfPermits) {
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    constexpr uint32_t kPermits = 3;
    Instance semaphore(0, Simulated::kMaxValue, /*accounts=*/4);
    SimulatedMachine machine(seed);
    int ended = 0;
    const bool all_ended = machine.Run(4, /*kills=*/0, [&](size_t self) {
      if (self == 0) {
        EXPECT_TRUE(semaphore->Release(kPermits));
      }
      for (int i = 0; i < 2; ++i) {
        if (self < 2) {
          EXPECT_TRUE(semaphore->AcquireUntil(Deadline::Infinite()));
          EXPECT_TRUE(semaphore->Release(1));
        } else {
          EXPECT_TRUE(semaphore->LockUntil(Deadline::Infinite()));
          EXPECT_TRUE(semaphore->Unlock());
        }
      }
      if (++ended == 4) {
        EXPECT_EQ(semaphore->value(), kPermits);
      }
    });
    ASSERT_TRUE(all_ended) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// Who waits for an anonymous permit gets the one of a dead process, too. (An
// anonymous one dies with its holder, so there is one for that.)
TEST(RobustSemaphoreInterleavingsTest, AnonymousWaitersTakeBackFromTheDead) {
  for (uint64_t seed = 0; seed < 2'000; ++seed) {
    Instance semaphore(2, 2, /*accounts=*/4);
    SimulatedMachine machine(seed);
    const bool ended = machine.Run(4, /*kills=*/3, [&](size_t self) {
      for (int i = 0; i < 3; ++i) {
        if (self == 0) {
          EXPECT_TRUE(semaphore->AcquireUntil(Deadline::Infinite()));
          EXPECT_TRUE(semaphore->Release(1));
        } else {
          EXPECT_TRUE(semaphore->LockUntil(Deadline::Infinite()));
          machine.Step();  // may die here
          EXPECT_TRUE(semaphore->Unlock());
        }
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// A permit that was released without being had: there is no room for the one on
// the account any more.
TEST(RobustSemaphoreInterleavingsTest, ASurplusIsDropped) {
  Instance semaphore(1, 1, /*accounts=*/4);
  SimulatedMachine machine(1);
  EXPECT_TRUE(machine.Run(1, /*kills=*/0, [&](size_t) {
    EXPECT_TRUE(semaphore->LockUntil(Deadline::Now()));
    EXPECT_TRUE(semaphore->Release(1));
    EXPECT_FALSE(semaphore->Release(1));
    EXPECT_TRUE(semaphore->Unlock());
    EXPECT_EQ(semaphore->value(), 1u);
    EXPECT_FALSE(semaphore->Unlock());
  }));
}

// Two share the only permit. Says how many schedules there were.
TEST(RobustSemaphoreInterleavingsTest, EverySchedule) {
  bool killed = false;
  const auto scenario = [&killed](SimulatedMachine& machine) {
    Instance semaphore(1, 1, /*accounts=*/2);
    int inside = 0;
    EXPECT_TRUE(machine.Run(2, /*kills=*/0, [&](size_t self) {
      EXPECT_TRUE(semaphore->LockUntil(Deadline::Infinite()));
      if (!machine.WasKilled(0)) {
        EXPECT_EQ(++inside, 1);
        machine.Step();
        --inside;
      }
      EXPECT_TRUE(semaphore->Unlock());
      if (self == 1 && machine.WasKilled(0)) {
        EXPECT_TRUE(semaphore->LockUntil(Deadline::Now()));
        EXPECT_FALSE(semaphore->LockUntil(Deadline::Now())) << "doubled";
      }
    })) << "stuck";
    if (!killed) {
      EXPECT_EQ(machine.slices_ended(), 0);
    }
  };
  const int64_t alive = RunEverySchedule(/*preemptions=*/3, scenario);
  killed = true;
  const int64_t deaths =
      KillUnderEverySchedule(/*preemptions=*/2, /*victim=*/0, scenario);
  printf("%lld schedules, %lld with a death\n", static_cast<long long>(alive),
         static_cast<long long>(deaths));
  EXPECT_GT(alive, 50);
  EXPECT_GT(deaths, 50);
}

}  // namespace
}  // namespace mp
