#include "mp/sync/in_place_condition.h"

#include <signal.h>
#include <sys/mman.h>

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <string>
#include <type_traits>
#include <vector>

#include "gtest/gtest.h"
#include "mp/base/check.h"
#include "mp/base/deadline.h"
#include "mp/shm/liveness.h"
#include "mp/sync/in_place_lock.h"
#include "mp/sync/in_place_rlock.h"
#include "mp/testing/child.h"
#include "mp/testing/process_test.h"
#include "mp/testing/simulated_machine.h"

// Locks are held across calls that release and acquire them.
#if defined(__clang__)
#pragma clang diagnostic ignored "-Wthread-safety-analysis"
#endif

namespace mp {
namespace {

using ::mp::testing::ChildProcess;
using ::mp::testing::KillAtEveryStep;
using ::mp::testing::KillUnderEverySchedule;
using ::mp::testing::RunEverySchedule;
using ::mp::testing::SimulatedMachine;
using ::mp::testing::SimulatedPlatform;

class InPlaceConditionTest : public testing::ProcessTest {
 protected:
  struct Shared {
    InPlaceLock lock;
    InPlaceCondition condition;
    std::atomic<int> entered;
    std::atomic<int> returned;
  };

  // In a mapping of the user's own: zero-filled, nothing constructed.
  InPlaceConditionTest()
      : memory_(mmap(nullptr, sizeof(Shared), PROT_READ | PROT_WRITE,
                     MAP_SHARED | MAP_ANONYMOUS, -1, 0)),
        shared_(*static_cast<Shared*>(memory_)) {
    MP_PCHECK(memory_ != MAP_FAILED) << "mmap";
  }
  ~InPlaceConditionTest() override { munmap(memory_, sizeof(Shared)); }

  void* const memory_;
  Shared& shared_;
};

TEST_F(InPlaceConditionTest, ZeroFilledMemoryIsACondition) {
  shared_.lock.Acquire();
  EXPECT_EQ(shared_.condition.waiters(), 0);
  EXPECT_EQ(shared_.condition.NotifyAll(), 0);
  EXPECT_EQ(shared_.condition.WaitUntil(shared_.lock, Deadline::Now()),
            kTimedOut)
      << "a notification is not remembered";
  EXPECT_EQ(shared_.lock.owner(), Liveness::Self());
  shared_.lock.Release();
  auto waiter = ChildProcess::Start([&] {
    shared_.lock.Acquire();
    EXPECT_EQ(shared_.condition.Wait(shared_.lock), kAcquired);
    shared_.lock.Release();
  });
  ASSERT_TRUE(waiter.WaitUntilAsleep());
  shared_.lock.Acquire();
  EXPECT_EQ(shared_.condition.waiters(), 1);
  EXPECT_EQ(shared_.condition.Notify(), 1);
  EXPECT_EQ(shared_.condition.waiters(), 0);
  EXPECT_EQ(shared_.condition.Notify(), 0);
  shared_.lock.Release();
  waiter.ExpectExit(0);
}

// The last ones find no room in the table; they come back by themselves, and
// go again.
TEST_F(InPlaceConditionTest, MoreWaitersThanTheTableHolds) {
  constexpr int kProcesses =
      static_cast<int>(InPlaceCondition::kMaxWaiters) + 4;
  std::vector<ChildProcess> waiters;
  for (int i = 0; i < kProcesses; ++i) {
    waiters.push_back(ChildProcess::Start([&] {
      shared_.lock.Acquire();
      ++shared_.entered;
      while (shared_.returned == 0) shared_.condition.Wait(shared_.lock);
      shared_.lock.Release();
    }));
  }
  while (shared_.entered < kProcesses) {
  }
  shared_.lock.Acquire();
  EXPECT_EQ(shared_.condition.waiters(), kProcesses - 4);
  shared_.returned = 1;
  EXPECT_EQ(shared_.condition.NotifyAll(), kProcesses - 4);
  shared_.lock.Release();
  for (ChildProcess& waiter : waiters) waiter.ExpectExit(0);
  // All their places are free again.
  shared_.lock.Acquire();
  EXPECT_EQ(shared_.condition.waiters(), 0);
  shared_.lock.Release();
}

TEST_F(InPlaceConditionTest, TheDeadLeaveTheirPlaces) {
  for (int round = 0; round < 3; ++round) {
    std::vector<ChildProcess> waiters;
    for (size_t i = 0; i < InPlaceCondition::kMaxWaiters; ++i) {
      waiters.push_back(ChildProcess::Start([&] {
        shared_.lock.Acquire();
        shared_.condition.Wait(shared_.lock);
      }));
    }
    for (ChildProcess& waiter : waiters) ASSERT_TRUE(waiter.WaitUntilAsleep());
    for (ChildProcess& waiter : waiters) waiter.Kill();
    for (ChildProcess& waiter : waiters) waiter.ExpectSignal(SIGKILL);
    EXPECT_EQ(shared_.lock.Acquire(), kAcquired);
    EXPECT_EQ(shared_.condition.waiters(), 0);
    shared_.lock.Release();
  }
}

class InPlaceConditionDeathTest : public InPlaceConditionTest {};

TEST_F(InPlaceConditionDeathTest, WaitingNeedsTheLock) {
  EXPECT_DEATH(shared_.condition.Wait(shared_.lock), "must hold its lock");
}

// ---- The algorithm on a simulated machine.

template <class Lock>
class InPlaceConditionInterleavingsTest : public ::testing::Test {};

using Locks = ::testing::Types<BasicInPlaceLock<SimulatedPlatform>,
                               BasicInPlaceRLock<SimulatedPlatform>>;

struct LockNames {
  template <class Lock>
  static std::string GetName(int) {
    return std::is_same_v<Lock, BasicInPlaceLock<SimulatedPlatform>> ? "Lock"
                                                                     : "RLock";
  }
};

TYPED_TEST_SUITE(InPlaceConditionInterleavingsTest, Locks, LockNames);

template <class Lock>
struct Monitor {
  Lock lock;
  BasicInPlaceCondition<SimulatedPlatform> condition;

  AcquireResult Wait() {
    return condition.WaitUntil(lock, Deadline::Infinite());
  }
};

// Three take six items that two make, one by one. Nobody returns who was not
// notified, so nobody needs a loop. One acquires its lock twice.
TYPED_TEST(InPlaceConditionInterleavingsTest, EachNotificationLetsOneGo) {
  for (uint64_t seed = 0; seed < 750; ++seed) {
    Monitor<TypeParam> monitor;
    SimulatedMachine machine(seed);
    int items = 0;
    int notified = 0;
    int returned = 0;
    const bool ended = machine.Run(5, /*kills=*/0, [&](size_t self) {
      for (int i = 0; i < (self < 2 ? 3 : 2); ++i) {
        const bool twice =
            self == 4 &&
            std::is_same_v<TypeParam, BasicInPlaceRLock<SimulatedPlatform>>;
        EXPECT_EQ(monitor.lock.Acquire(), kAcquired);
        if (twice) monitor.lock.Acquire();
        if (self < 2) {
          ++items;
          notified += monitor.condition.Notify();
        } else {
          while (items == 0) {
            EXPECT_EQ(monitor.Wait(), kAcquired);
            EXPECT_LE(++returned, notified);
          }
          --items;
        }
        if (twice) {
          EXPECT_TRUE(monitor.lock.Release());
        }
        EXPECT_TRUE(monitor.lock.Release());
        EXPECT_FALSE(monitor.lock.owner() == SimulatedMachine::SelfToken());
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(items, 0) << seed;
    ASSERT_EQ(returned, notified) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// Who notifies and then waits does not get its own notification.
TYPED_TEST(InPlaceConditionInterleavingsTest, NobodyOvertakes) {
  for (uint64_t seed = 0; seed < 750; ++seed) {
    Monitor<TypeParam> monitor;
    SimulatedMachine machine(seed);
    int turn = 0;
    const bool ended = machine.Run(2, /*kills=*/0, [&](size_t self) {
      monitor.lock.Acquire();
      for (int i = 0; i < 3; ++i) {
        while (turn % 2 != static_cast<int>(self)) {
          EXPECT_EQ(monitor.Wait(), kAcquired);
        }
        ++turn;
        monitor.condition.Notify();
      }
      monitor.lock.Release();
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(turn, 6) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
  }
}

// Giving up leaves nothing behind, and loses no notification of others.
TYPED_TEST(InPlaceConditionInterleavingsTest, SomeAreImpatient) {
  for (uint64_t seed = 0; seed < 750; ++seed) {
    Monitor<TypeParam> monitor;
    SimulatedMachine machine(seed);
    int items = 0;
    int got = 0;
    const bool ended = machine.Run(4, /*kills=*/0, [&](size_t self) {
      for (int i = 0; i < 3; ++i) {
        monitor.lock.Acquire();
        if (self == 0) {
          ++items;
          monitor.condition.Notify();
        } else if (self == 1) {
          while (items == 0) EXPECT_EQ(monitor.Wait(), kAcquired);
          --items;
          ++got;
        } else if (monitor.condition.WaitUntil(monitor.lock, Deadline::Now())) {
          // Takes nothing, so the notification is another one's.
          monitor.condition.Notify();
        }
        monitor.lock.Release();
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_EQ(got, 3) << seed;
    ASSERT_EQ(machine.slices_ended(), 0) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// A waiter dies, wherever. There are items enough for the other one.
TYPED_TEST(InPlaceConditionInterleavingsTest, ADeathAtEveryStepOfAWaiter) {
  int64_t deaths = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    deaths +=
        KillAtEveryStep(seed, /*victim=*/0, [&](SimulatedMachine& machine) {
          Monitor<TypeParam> monitor;
          int items = 0;
          EXPECT_TRUE(machine.Run(3, /*kills=*/0, [&](size_t self) {
            for (int i = 0; i < (self == 2 ? 2 : 1); ++i) {
              monitor.lock.Acquire();
              if (self == 2) {
                ++items;
                monitor.condition.Notify();
              } else {
                while (items == 0) monitor.Wait();
                --items;
              }
              monitor.lock.Release();
            }
          }));
        });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  EXPECT_GT(deaths, 100);
}

// So many wait for one item, of which one is notified. Who takes the item tells
// another one, and so on.
template <class Lock>
void TakeTheOnlyItem(SimulatedMachine& machine, size_t waiters) {
  Monitor<Lock> monitor;
  int items = 0;
  bool taken = false;
  EXPECT_TRUE(machine.Run(waiters + 1, /*kills=*/0, [&](size_t self) {
    if (self == waiters) {
      while (!machine.IsAsleep(waiters - 1)) machine.Step();
    }
    monitor.lock.Acquire();
    if (self == waiters) {
      ++items;
    } else {
      while (items == 0 && !taken) monitor.Wait();
      if (items > 0) --items;
      taken = true;
    }
    monitor.condition.Notify();
    monitor.lock.Release();
  }));
}

// Who is killed has got the notification, perhaps. If it did not use it,
// another one does.
TYPED_TEST(InPlaceConditionInterleavingsTest, TheDeadLoseNoNotification) {
  int64_t deaths = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    deaths +=
        KillAtEveryStep(seed, /*victim=*/0, [](SimulatedMachine& machine) {
          TakeTheOnlyItem<TypeParam>(machine, /*waiters=*/2);
        });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  EXPECT_GT(deaths, 100);
}

// The same when a first one has died already, and the victim may be the one
// that passes its notification on.
TYPED_TEST(InPlaceConditionInterleavingsTest, NorDoTwoDead) {
  for (int64_t step = 10; step < 20; ++step) {
    KillAtEveryStep(/*seed=*/step, /*victim=*/1,
                    [&](SimulatedMachine& machine) {
                      machine.KillAt(0, step);
                      TakeTheOnlyItem<TypeParam>(machine, /*waiters=*/3);
                    });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

// Who notifies dies, wherever: perhaps when it has made its change and notified
// nobody, or half of them.
TYPED_TEST(InPlaceConditionInterleavingsTest, ADeathAtEveryStepOfANotifier) {
  int64_t deaths = 0;
  for (uint64_t seed = 0; seed < 50; ++seed) {
    deaths +=
        KillAtEveryStep(seed, /*victim=*/0, [&](SimulatedMachine& machine) {
          Monitor<TypeParam> monitor;
          bool open = false;
          EXPECT_TRUE(machine.Run(4, /*kills=*/0, [&](size_t self) {
            // If the victim has not, the other one must.
            if (self == 1 && open) return;
            monitor.lock.Acquire();  // and tells nobody of a death
            if (self < 2) {
              if (!open) {
                open = true;
                machine.Step();  // may die here
                monitor.condition.NotifyAll();
              }
            } else {
              while (!open) monitor.Wait();
            }
            monitor.lock.Release();
          }));
        });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
  EXPECT_GT(deaths, 100);
}

// Two conditions of one lock. Who dies has put an item and not told those who
// wait for it; who comes next looks only at the other condition.
TYPED_TEST(InPlaceConditionInterleavingsTest, ADeathBetweenTwoConditions) {
  for (uint64_t seed = 0; seed < 50; ++seed) {
    KillAtEveryStep(seed, /*victim=*/0, [&](SimulatedMachine& machine) {
      TypeParam lock;
      BasicInPlaceCondition<SimulatedPlatform> filled;
      BasicInPlaceCondition<SimulatedPlatform> emptied;
      int items = 0;
      EXPECT_TRUE(machine.Run(3, /*kills=*/0, [&](size_t self) {
        lock.Acquire();
        if (self < 2) {
          while (items == 1) emptied.WaitUntil(lock, Deadline::Infinite());
          items = 1;
          machine.Step();  // may die here
          filled.Notify();
        } else {
          while (items == 0) filled.WaitUntil(lock, Deadline::Infinite());
          items = 0;
          emptied.Notify();
        }
        lock.Release();
      }));
    });
    ASSERT_FALSE(::testing::Test::HasFailure());
  }
}

TYPED_TEST(InPlaceConditionInterleavingsTest, DeathsStrandNobody) {
  for (uint64_t seed = 0; seed < 750; ++seed) {
    Monitor<TypeParam> monitor;
    SimulatedMachine machine(seed);
    int items = 0;
    const bool ended = machine.Run(6, /*kills=*/2, [&](size_t self) {
      for (int i = 0; i < (self < 3 ? 3 : 1); ++i) {
        monitor.lock.Acquire();
        if (self < 3) {  // more than are killed
          ++items;
          machine.Step();
          monitor.condition.Notify();
        } else {
          while (items == 0) monitor.Wait();
          --items;
        }
        monitor.lock.Release();
      }
    });
    ASSERT_TRUE(ended) << seed;
    ASSERT_FALSE(::testing::Test::HasFailure()) << seed;
  }
}

// One makes an item, two wait for it in turn. Says how many schedules there
// were.
TYPED_TEST(InPlaceConditionInterleavingsTest, EverySchedule) {
  bool killed = false;
  const auto scenario = [&killed](SimulatedMachine& machine) {
    Monitor<TypeParam> monitor;
    int items = 0;
    EXPECT_TRUE(machine.Run(3, /*kills=*/0, [&](size_t self) {
      monitor.lock.Acquire();
      if (self == 2) {
        items = 2;
        monitor.condition.Notify();
        monitor.condition.Notify();
      } else {
        while (items == 0) monitor.Wait();
        --items;
      }
      monitor.lock.Release();
    })) << "stuck";
    if (!killed) {
      EXPECT_EQ(machine.slices_ended(), 0);
    }
  };
  const int64_t alive = RunEverySchedule(/*preemptions=*/2, scenario);
  killed = true;
  const int64_t deaths =
      KillUnderEverySchedule(/*preemptions=*/1, /*victim=*/0, scenario);
  printf("%lld schedules, %lld with a death\n", static_cast<long long>(alive),
         static_cast<long long>(deaths));
  EXPECT_GT(alive, 50);
  EXPECT_GT(deaths, 50);
}

}  // namespace
}  // namespace mp
